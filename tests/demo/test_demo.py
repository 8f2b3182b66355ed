"""The demo's measurements on a random model: complete, consistent, and drawn."""

import json

import pytest
import torch
from helpers import random_texts, tiny_base, tiny_shared

from sharedllm.demo.cost import measure
from sharedllm.demo.measure import anchors, context_lengths, losses_by_length
from sharedllm.demo.sources import library_files


def test_lengths_and_anchors():
    assert context_lengths(5000, 512, 4096) == [512, 1024, 2048, 4096]
    assert context_lengths(100, 512, 4096) == []
    places = anchors(10_000, 4096, 512, 128, 5)
    assert len(places) == 5
    assert all(p % 128 == 0 and 4096 <= p <= 10_000 - 512 for p in places)
    with pytest.raises(ValueError, match="at least"):
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


def test_demo_writes_figures_and_drawing(run, base_folder, tmp_path):
    pytest.importorskip("matplotlib")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} is the number of this line.\n" for i in range(200)))
    model = tmp_path / "model"  # its window fits a needle's question, which is long in bytes
    extended = ["-o", model, "--paper", "--window", "192", "--chunk-size", "16", "--lower-layers", "2"]
    assert run("extend", base_folder, *extended)[0] == 0
    options = ["--model", model, "--base", base_folder, "--tokens", "1024", "--places", "2", "--needles", "1"]
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
