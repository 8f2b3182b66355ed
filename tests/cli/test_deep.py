"""`extend` without options makes a model that every other command accepts, and that selects and reads deeper by default."""

import io
import json
import re
import shutil
from contextlib import contextmanager

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from rich.console import Console
from transformers import BertConfig, BertModel

from sharedllm.cli import answers, common, extending
from sharedllm.memory.opening import read_header
from sharedllm.scoring.encoder import SentenceEncoder

TEXT = "".join(
    f"The keeper of the {place} is called {name}. It rained there on day {day}.\n"
    for day, (place, name) in enumerate(
        [("harbour", "Anna"), ("castle", "Bruno"), ("mill", "Clara"), ("tower", "Dora"), ("bridge", "Emil")] * 6
    )
)


@pytest.fixture(scope="module")
def deep_folder(wide_base_folder, tmp_path_factory):
    from sharedllm.cli import main

    folder = tmp_path_factory.mktemp("deep") / "model"
    text = folder.parent / "prose.txt"
    text.write_text(
        "".join(f"Sentence {i} tells about apples, rivers, windows, gardens and letters. " for i in range(60))
    )
    arguments = ["--data", str(text), "--window", "256", "--chunk-size", "64", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main(["extend", str(wide_base_folder), "-o", str(folder), *arguments])
    return folder


def test_measuring_ends_at_its_total(run, wide_base_folder, deep_folder, tmp_path, monkeypatch):
    """What is hidden in the text is read too."""
    bars: list[list[int]] = []

    @contextmanager
    def bar(label, total):
        bars.append([total, 0])

        def advance(step):
            bars[-1][1] += step

        yield advance

    monkeypatch.setattr(extending, "progress_bar", bar)
    options = ["--data", deep_folder.parent / "prose.txt", "--window", 256, "--chunk-size", 64]
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "model", *options)
    assert code == 0 and [total == done > 0 for total, done in bars] == [True], (bars, err)


def test_extend_writes_what_it_measured(run, deep_folder):
    config = json.loads((deep_folder / "config.json").read_text())
    assert config["injection"] == "deep" and config["encoding"] == "chunk" and config["lower_layers"] >= 1
    assert all(layer <= config["lower_layers"] for layer, _, _ in config["selection_heads"] or [])
    # No token of one byte ends a paragraph.
    ends = "with sentences, with clauses, before headings, with no full stop before a digit"
    assert json.loads(run("info", deep_folder, "--json")[1])["pieces_end"] == ends
    assert "pieces end" in run("info", deep_folder)[1]


def test_read_ask_append_without_any_option(run, deep_folder, tmp_path):
    """The memory on disk and the text itself give the same answer, from pieces, with their places."""
    text, memory = tmp_path / "notes.txt", tmp_path / "notes.memory"
    text.write_text(TEXT)
    options = ["Who keeps the castle?", "--model", deep_folder, "--max-new-tokens", 4, "--json"]
    code, _, err = run("read", text, "-o", memory, "--model", deep_folder)
    assert code == 0, err
    code, out, err = run("ask", memory, *options)
    assert code == 0, err
    answer = json.loads(out)
    assert 0 < answer["selected_tokens"] <= 64 < answer["context_tokens"] == len(TEXT)
    assert answer["seconds"] > 0 and answer["score"] in ("bm25", "hybrid") and answer["found"]
    for source in answer["sources"]:
        assert source["text"] == TEXT[slice(*source["characters"])]
    # The meanings and heads of a random base say nothing.
    by_words = json.loads(run("ask", memory, *options, "--score", "bm25")[1])
    assert any("castle" in source["text"] for source in by_words["sources"])
    again = json.loads(run("ask", text, *options)[1])
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in answer.items() if k != "seconds"}
    code, out, err = run("ask", memory, "Does photosynthesis need chlorophyll?", *options[1:])
    assert code == 0 and not json.loads(out)["found"]
    code, out, err = run("ask", memory, *options, "--budget", 1)
    assert (code, out) == (2, "") and re.search(r"--budget 1 is less than the (\d+) .* piece: give at least \1\.", err)
    code, out, err = run("ask", memory, "Does photosynthesis need chlorophyll?", *options[1:-1])
    assert code == 0 and "may not be in the text" in err
    code, out, err = run("ask", memory, "What is it?", *options[1:-1])
    assert code == 0 and "Nothing in this question can be searched for" in err and "may not" not in err
    code, out, _ = run(
        "explain", memory, "Does photosynthesis need chlorophyll?", *options[1:], "-o", tmp_path / "x.html"
    )
    assert code == 0 and json.loads(out)["found"] is False
    text.write_text(TEXT + "The keeper of the well is called Frieda.\n")
    assert run("read", text, "-o", memory, "--append", "--model", deep_folder)[0] == 0
    found = json.loads(run("ask", memory, "Who keeps the well?", *options[1:], "--score", "bm25")[1])
    assert "Frieda" in found["sources"][0]["text"]


def test_reading_on_for_one_question_says_what_spares_it(run, deep_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MANY_READ_ON", 100)
    folder, text = tmp_path / "model", tmp_path / "notes.txt"
    shutil.copytree(deep_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"meaning_layers": config["lower_layers"] + 1}))
    text.write_text(TEXT)
    asked = ["ask", text, "Does photosynthesis need chlorophyll?", "--model", folder, "--max-new-tokens", 2]
    code, _, err = run(*asked)
    assert code == 0 and f"{len(TEXT):,} tokens had to be read deeper for this question" in " ".join(err.split())
    assert "read deeper" not in run(*asked, "--score", "bm25")[2]
    memory = tmp_path / "notes.memory"
    assert run("read", text, "-o", memory, "--model", folder)[0] == 0
    info = json.loads(run("info", memory, "--json")[1])
    assert info["meanings_bytes"] == 0 and "meanings" not in run("info", memory)[1]
    asked[1] = memory
    (_, first, told), (_, second, untold) = run(*asked), run(*asked)
    assert first == second and "read deeper" in told and "read deeper" not in untold
    assert "meanings bytes" in run("info", memory)[1]
    assert json.loads(run("info", memory, "--json")[1]) | {"meanings_bytes": 0} == info


def test_choosing_says_how_far_it_is(run, deep_folder, tmp_path, monkeypatch):
    """A long question takes long to be read by the heads, before it is read for the answer."""
    monkeypatch.setattr(common, "SECONDS_A_LINE", 0)
    text = tmp_path / "a.txt"
    text.write_text("The keeper of the castle is called Elinor. " * 9)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Who keeps the castle?\n")))
    options = ["--model", deep_folder, "--max-new-tokens", 2, "--score", "attention"]
    asked = [text, "Who keeps the castle?"]
    for command in (["ask", *asked], ["explain", *asked, "-o", tmp_path / "a.html"], ["chat", text]):
        code, _, err = run(*command, *options)
        assert code == 0 and "choosing what to read: " in err.partition("reading the question")[0], err


def test_a_chat_says_what_may_not_be_there(run, deep_folder, tmp_path, monkeypatch):
    """Also of a later question. Of one that goes on with the one before it is not known."""
    text = tmp_path / "notes.txt"
    text.write_text(TEXT)
    questions = "Does photosynthesis need chlorophyll?\nWhich telescope did astronomers buy?\n"
    options = ["chat", text, "--model", deep_folder, "--max-new-tokens", 2]

    def chat(typed: str, *more: str):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        return run(*options, *more)

    known = "Who keeps the castle?\nAnd when did he buy it?\n"
    code, _, err = chat(questions + known)
    assert code == 0 and err.count("may not be in the text") == 2
    code, out, _ = chat(questions + known, "--json")
    assert code == 0 and [json.loads(line)["found"] for line in out.splitlines()] == [False, False, True, None]
    code, _, err = chat(known, "--instruction", "In French, please. " * 99)
    assert code == 2 and err.count("the question with its instruction has") == 2


def test_scores_that_do_not_rank_pieces_are_refused(run, deep_folder, tmp_path, monkeypatch):
    """Before the weights are loaded."""
    monkeypatch.setattr("sharedllm.cli.loading.load_any", lambda *_: pytest.fail("a model is loaded"))
    (tmp_path / "notes.txt").write_text(TEXT)
    for command in (["ask", tmp_path / "notes.txt", "Who?"], ["chat", tmp_path / "notes.txt"]):
        code, _, err = run(*command, "--model", deep_folder, "--score", "cosine")
        assert code == 2 and err.count("\n") == 1 and "use one of attention, bm25, hybrid" in err


def test_the_papers_way_says_that_it_is_untrained(run, wide_base_folder, tmp_path):
    (tmp_path / "notes.txt").write_text(TEXT)
    options = ["--paper", "--chunk-size", 16, "--lower-layers", 1, "--window", 64]
    assert run("extend", wide_base_folder, "-o", tmp_path / "model", *options)[0] == 0
    code, _, err = run("ask", tmp_path / "notes.txt", "Who?", "--model", tmp_path / "model", "--max-new-tokens", 2)
    assert code == 0 and "is not trained" in err


@pytest.mark.parametrize(("injection", "anchored"), [("joint", True), ("cross", False)])
def test_a_joint_memory_leaves_the_first_token_alone(run, wide_base_folder, tmp_path, injection, anchored):
    options = ["--injection", injection, "--window", 256, "--chunk-size", 32, "--lower-layers", 2]
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "model", *options)
    assert code == 0, err
    assert json.loads((tmp_path / "model" / "config.json").read_text()).get("anchor", False) is anchored


def test_a_file_of_save_memory_is_selected_from(run, deep_folder, tmp_path):
    from sharedllm import SharedLLMForCausalLM, save_memory
    from sharedllm.utils.checkpoints import load_tokenizer
    from sharedllm.utils.text import tokenize

    model = SharedLLMForCausalLM.from_pretrained(deep_folder).eval()
    ids = tokenize(load_tokenizer(str(deep_folder)), TEXT)
    save_memory(model.read(ids, keep_all=True, sources=["notes"]), tmp_path / "notes.memory")
    options = ["Who keeps the mill?", "--model", deep_folder, "--max-new-tokens", 2, "--json"]
    code, out, err = run("ask", tmp_path / "notes.memory", *options)
    assert code == 0, err
    assert 0 < json.loads(out)["selected_tokens"] <= 64


def test_a_chat_model_is_asked_for_few_words(wide_base_folder):
    """Where there is a chat template and nothing else is said; in a chat template it comes first."""
    from sharedllm.answering.asked import prompt_of
    from sharedllm.prompts import FEW_WORDS
    from sharedllm.utils.checkpoints import load_tokenizer

    tokenizer, model = (
        load_tokenizer(str(wide_base_folder)),
        tiny_shared("llama", injection="deep", encoding="chunk", window=128),
    )

    def asked(**options) -> str:
        return tokenizer.decode(prompt_of(model, tokenizer, "Who?", 4, **options)[0])

    assert FEW_WORDS not in asked()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    assert f"{FEW_WORDS}\nQuestion: Who?\nAnswer:>" in asked() and "Who?>" in asked(instruction="")
    assert "In French.\nQuestion: Who?\nAnswer:>" in asked(instruction="In French.")


def test_a_window_too_small_to_measure(run, wide_base_folder, tmp_path, monkeypatch):
    """Without a text of the user's, words alone select; a text that was named has to be long enough."""
    monkeypatch.setattr(extending, "CHARACTERS", 8_000)
    options = ["--window", 64, "--chunk-size", 16, "--lower-layers", 1]
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "small", *options)
    assert code == 0 and "words alone select" in err
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["lower_layers"] == 1 and not config["selection_heads"]
    (tmp_path / "short.txt").write_text("Too short.")
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "none", *options, "--data", tmp_path / "short.txt")
    assert code == 2 and "sentences to ask about" in err


def test_many_questions_read_through_all_layers(run, wide_base_folder, deep_folder, tmp_path):
    """The heads come from the bottom third, whatever the depth."""
    prose = deep_folder.parent / "prose.txt"
    options = ["--data", prose, "--window", 256, "--chunk-size", 64, "--json"]
    for name, chosen in (("many", ["--questions", "many"]), ("given", ["--lower-layers", 4])):
        code, out, err = run("extend", wide_base_folder, "-o", tmp_path / name, *options, *chosen)
        assert code == 0, err
        said, config = json.loads(out), json.loads((tmp_path / name / "config.json").read_text())
        layers = config["text_config"]["num_hidden_layers"]
        assert said["lower_layers"] == config["lower_layers"] == (layers if name == "many" else 4)
        assert config["injection_map"] == [[i, i] for i in range(layers)]
        assert all(layer <= max(1, layers // 3) for layer, _, _ in config["selection_heads"] or [])
    (tmp_path / "notes.txt").write_text(TEXT)
    # The meanings and heads of a random base say nothing.
    options = ["--model", tmp_path / "many", "--json", "--score", "bm25", "--max-new-tokens", 4]
    code, out, err = run("ask", tmp_path / "notes.txt", "Who keeps the mill?", *options)
    assert code == 0 and any("mill" in source["text"] for source in json.loads(out)["sources"]), err
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "no", "--questions", "many", "--lower-layers", 2)
    assert code == 2 and "--questions many means all layers" in err


def test_a_terminal_is_not_controlled_by_an_answer(capsys, monkeypatch):
    said = "red \x1b[31mtext\x07\tand\nmore"
    answers.say(said)
    assert capsys.readouterr().out == said + "\n", "a file or a pipe gets the words as they are"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    answers.say(said)
    assert capsys.readouterr().out == "red \\x1b[31mtext\\x07\tand\nmore\n"


def test_a_source_that_is_a_whole_document_is_cut(capsys, monkeypatch):
    """Around what the question or its answer says; in a terminal to its width."""
    text = "many words " * 900 + "the code is 48213 " + "more words " * 900
    source = {"document": "a.txt", "place": "", "characters": [0, 360_000], "excerpt": text}
    answers.show_sources([source, source | {"excerpt": "a few words"}], "Which code? 48213")
    long, short = capsys.readouterr().err.splitlines()
    assert long.startswith("a.txt, characters 0–360,000: “…") and long.endswith("…”") and 320 < len(long) < 340
    assert "many words the code is 48213 more words" in long and short.endswith("“a few words”")
    monkeypatch.setattr(answers, "stderr", Console(stderr=True, force_terminal=True, no_color=True, width=100))
    answers.show_sources([source], "Which code? 48213")
    (line,) = capsys.readouterr().err.splitlines()
    assert "the code is 48213" in line and "…”" in line


@pytest.fixture
def encoder_folder(tmp_path):
    """A sentence encoder's folder, of random weights."""
    folder, tokenizer = tmp_path / "encoder", byte_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=256, **sizes), add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_sentence_encoder_embeds_a_text_once(run, wide_base_folder, encoder_folder, tmp_path, monkeypatch):
    """`extend --encoder` copies it; `read` keeps what it makes of a text, so that a question needs nothing but its own embedding."""
    model, text, memory = tmp_path / "model", tmp_path / "notes.txt", tmp_path / "notes.memory"
    (tmp_path / "prose.txt").write_text(
        "".join(f"Sentence {i} tells about apples, rivers, windows, gardens and letters. " for i in range(60))
    )
    text.write_text(TEXT)
    arguments = ["--data", tmp_path / "prose.txt", "--window", 256, "--chunk-size", 64]
    code, _, err = run("extend", wide_base_folder, "-o", model, *arguments, "--encoder", encoder_folder)
    assert code == 0 and "or the sentence encoder" in err, err
    assert json.loads((model / "config.json").read_text())["sentence_encoder"]["pooling"] == "mean"
    assert run("read", text, "-o", memory, "--model", model)[0] == 0
    headers = [read_header(block) for block in sorted((memory / "blocks").glob("*.memory"))]
    assert headers and all(header["encoder"] and header["format_version"] == 3 for header in headers)
    assert json.loads(run("info", memory, "--json")[1])["embedded"]
    assert "embedded" in run("info", memory)[1]
    asked, embed = [], SentenceEncoder._embed
    monkeypatch.setattr(
        SentenceEncoder, "_embed", lambda self, texts, *rest: asked.extend(texts) or embed(self, texts, *rest)
    )
    options = ["Who keeps the castle?", "--model", model, "--max-new-tokens", 4, "--json"]
    code, out, err = run("ask", memory, *options)
    assert code == 0 and asked == ["Who keeps the castle?"], err
    # A text that is not kept is embedded for its first question, with the same result.
    again = json.loads(run("ask", text, *options)[1])
    assert len(asked) > 10
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in json.loads(out).items() if k != "seconds"
    }


def test_an_encoder_that_can_not_be_used_is_refused(run, wide_base_folder, encoder_folder, tmp_path):
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "m", "--paper", "--encoder", encoder_folder)
    assert code == 2 and f"--encoder {encoder_folder} ranks what a model with injection deep reads" in err
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "m", "--encoder", tmp_path / "none")
    assert code == 2 and "does not exist" in err and not (tmp_path / "m").exists()
    (encoder_folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 16}))
    code, _, err = run("extend", wide_base_folder, "-o", tmp_path / "m", "--encoder", encoder_folder)
    assert code == 2 and err.count("\n") == 1 and str(encoder_folder) in err


def test_a_base_is_measured_in_the_dtype_that_the_machine_multiplies_fast(monkeypatch):
    """And has its own again afterwards, to the bit."""
    from sharedllm.cli import extending

    base = tiny_base("llama", dtype=torch.bfloat16)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    monkeypatch.setattr(extending, "inference_dtype", lambda device: torch.float32)
    with extending._fast(base):
        assert all(weight.dtype == torch.float32 for weight in base.parameters())
    assert all(weight.dtype == torch.bfloat16 for weight in base.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    monkeypatch.setattr(extending, "inference_dtype", lambda device: "auto")
    with extending._fast(base):
        assert all(weight.dtype == torch.bfloat16 for weight in base.parameters())
