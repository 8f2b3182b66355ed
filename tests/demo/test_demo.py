"""The demo's measurements on a random model: complete, consistent, and drawn."""

import json
import random

import pytest
import torch
from helpers import byte_tokenizer, random_texts, tiny_base, tiny_shared

from sharedllm.cli.demo import DEPTHS
from sharedllm.demo.asking import SYSTEMS, with_facts
from sharedllm.demo.cost import measure
from sharedllm.demo.measure import anchors, context_lengths, losses_by_length
from sharedllm.demo.plot import draw_asked
from sharedllm.demo.sources import library_files


def test_lengths_and_anchors():
    assert context_lengths(5000, 512, 4096) == [512, 1024, 2048, 4096]
    assert context_lengths(100, 512, 4096) == []
    places = anchors(10_000, 4096, 512, 128, 5)
    assert len(places) == 5
    assert all(p % 128 == 0 and 4096 <= p <= 10_000 - 512 for p in places)
    with pytest.raises(ValueError, match=r"^the text has 4,096 tokens: at least 4,608 are needed\.$"):
        anchors(4096, 4096, 512, 128, 1)


def test_losses_are_the_models_own():
    """Slices of one memory give the same as reading each context alone; the base's column is the base's."""
    base = tiny_base("llama")
    model = tiny_shared("llama", base=base)
    text, another = (torch.tensor([t]) for t in random_texts([160, 128]))
    own, other = model.read(text[:, :128]), model.read(another)
    losses = losses_by_length(model, base, text, own, other, [32, 64], [96, 128])

    def loss(lm, place: int, **context) -> float:
        ids = text[:, place : place + 32]
        labels = ids.clone()
        labels[:, :16] = -100
        return float(lm(ids, labels=labels, **context).loss)

    with torch.no_grad():
        assert losses.base == pytest.approx(sum(loss(base, p) for p in (96, 128)) / 2, rel=1e-5)
        assert losses.none == pytest.approx(sum(loss(model, p) for p in (96, 128)) / 2, rel=1e-5)
        for n in (32, 64):
            expected = sum(loss(model, p, context_ids=text[:, p - n : p]) for p in (96, 128)) / 2
            assert losses.own[n] == pytest.approx(expected, rel=1e-5)
            expected = sum(loss(model, p, context_ids=another[:, p - n : p]) for p in (96, 128)) / 2
            assert losses.other[n] == pytest.approx(expected, rel=1e-5)
    assert losses.targets == 32


def test_library_text_is_there_and_in_order():
    files = library_files()
    assert len(files) > 100
    assert files == sorted(files)


def test_cost_measures_something():
    cost = measure(lambda: sum(range(100_000)))
    assert cost.seconds > 0
    assert cost.peak_bytes is None or cost.peak_bytes >= 0


def test_demo_writes_figures_and_drawing(run, wide_base_folder, tmp_path):
    pytest.importorskip("matplotlib")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} is the number of this line.\n" for i in range(200)))
    model = tmp_path / "model"  # its window fits a needle's question, which is long in bytes
    extended = ["-o", model, "--paper", "--window", "192", "--chunk-size", "16", "--lower-layers", "2"]
    assert run("extend", wide_base_folder, *extended)[0] == 0
    options = ["--model", model, "--base", wide_base_folder, "--tokens", "1024", "--places", "2", "--needles", "1"]
    code, out, err = run("demo", text, "-o", tmp_path / "demo", *options)
    assert code == 0, err
    assert "Loss of the same 192 tokens" in out
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert list(result["losses"]["own"]) == list(result["costs"]["sharedllm"]) == ["192", "384", "768"]
    assert {len(row) for row in result["needles"].values()} == {5}
    assert result["seed"] == 0
    assert (tmp_path / "demo" / "demo.png").read_bytes()[:4] == b"\x89PNG"
    code, out, _ = run("demo", text, "-o", tmp_path / "demo", *options, "--json")
    assert code == 0
    assert json.loads(out)["losses"]["base"] == pytest.approx(result["losses"]["base"])


def test_demo_refuses_a_short_text(run, base_folder, model_folder, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("too short")
    code, _, err = run("demo", text, "-o", tmp_path / "demo", "--model", model_folder, "--base", base_folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "the demo needs" in err


@pytest.mark.parametrize("there", [False, True])
def test_the_demo_says_first_that_its_folder_can_not_be_written(run, tmp_path, monkeypatch, there):
    monkeypatch.setattr("sharedllm.cli.loading.load_any", lambda name: pytest.fail("a model was loaded"))
    (tmp_path / "file").write_text("text")
    output = tmp_path / "file" if there else tmp_path / "file" / "below" / "it"
    code, out, err = run("demo", "-o", output)
    said = (
        "is a file, not a folder: name another one."
        if there
        else "can't be written: Not a directory; name another folder."
    )
    assert (code, out, err) == (2, "", f"error: -o {output} {said}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_demo_refuses_what_it_would_ignore(run, base_folder, tmp_path):
    for options, said in (
        (["--base", base_folder], f"--base {base_folder} is of an extended model, but {base_folder} is a base itself"),
        (["--places", 3], f"--places 3 is for losses, but {base_folder} is asked for facts"),
    ):
        code, out, err = run("demo", "-o", tmp_path / "demo", "--model", base_folder, *options)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("seconds", [None, 12.5])
def test_the_figure_of_a_chat_model(tmp_path, seconds):
    pytest.importorskip("matplotlib")
    found = {str(depth): share for depth, share in zip(DEPTHS, (0, 0.25, 0.5, 0.75, 1), strict=True)}
    asked = {name: {"found": found, "shown": 300.0, "seconds": 0.4, "prepare": 3.0} for name in SYSTEMS}
    result = {
        "text": {"name": "A text", "tokens": 131072}, "model": {"name": "a model"}, "questions": 20, "asked": asked,
        "full_attention": {"seconds": seconds, "why": None},
    }  # fmt: skip
    draw_asked(result, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes()[:4] == b"\x89PNG"


def test_facts_stand_at_their_depths():
    text = "".join(f"Line {i} says little. It ends here.\n" for i in range(400))
    whole, questions = with_facts(text, DEPTHS, 3, random.Random(0))
    assert len(questions) == 15 and len({q.question for q in questions}) == 15
    bare = whole
    for question in questions:
        ((start, end),) = question.evidence
        fact = whole[start:end]
        assert question.answers[0] in fact and abs(start / len(whole) - float(question.id.split("-")[0])) < 0.05
        assert whole[start - 2] in ".\n" or whole[start - 2].isdigit() or start < 3, "facts follow a sentence"
        bare = bare.replace(f" {fact}", "", 1)
    assert bare == text
    with pytest.raises(ValueError, match="needles=1000 asks for 5000 facts"):
        with_facts(text, DEPTHS, 1000, random.Random(0))


@pytest.mark.slow
def test_the_demo_of_a_chat_model(run, tmp_path, monkeypatch):
    """A base is extended on the spot; every system is asked about every fact, and the same pieces are really the same."""
    monkeypatch.setattr("sharedllm.cli.demo_asked.CHARACTERS", 6000)
    base, text = tmp_path / "base", tmp_path / "text.txt"
    tiny_base("llama", vocab_size=256, max_position_embeddings=1024).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    text.write_text("".join(f"Line {i} tells about apples, rivers and gardens. It ends here.\n" for i in range(200)))
    options = [text, "-o", tmp_path / "demo", "--model", base, "--needles", 1, "--tokens", 3000, "--budget", 300]
    code, out, err = run("demo", *options)
    assert code == 0, err
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert result["questions"] == 5 and 3000 < result["text"]["tokens"] < 4000
    asked = result["asked"]
    assert list(asked) == ["closed", "sharedllm", "same-pieces-text", "bm25-text"]
    assert all(list(map(float, each["found"])) == DEPTHS for each in asked.values())
    assert asked["closed"]["shown"] == 0 < asked["sharedllm"]["shown"] <= 300
    assert asked["same-pieces-text"]["shown"] == pytest.approx(asked["sharedllm"]["shown"], rel=0.1)
    assert f"figures in {tmp_path}/demo/demo.json, drawn in {tmp_path}/demo/demo.png" in " ".join(out.split()).replace(
        "/ ", "/"
    )
    assert (tmp_path / "demo" / "demo.png").read_bytes()[:4] == b"\x89PNG"
    assert result["memory"]["bytes"] > 0 and result["model"]["measured"]["lower_layers"] >= 1
    said = " ".join(out.split())
    assert "read once through" in said and "5 facts asked for" in said and "The base alone, with full attention" in said

    model = tmp_path / "model"
    assert run("extend", base, "-o", model, "--data", text, "--window", 512, "--chunk-size", 64)[0] == 0
    code, _, err = run("demo", *options[:3], "--model", model)
    assert (code, err.count("\n")) == (2, 1) and "--base is missing" in err
    code, _, err = run("demo", *options[:-1], 1000)
    assert code == 2 and "lower --budget 1000" in err.replace("\n", " ")
    text.write_text("too short")
    code, _, err = run("demo", *options)
    assert code == 2 and "the demo needs at least 1,024" in err.replace("\n", " ")
