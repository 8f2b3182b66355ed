"""The reading benchmark: what it counts and how it fits. Timings themselves are never asserted."""

import json

import pytest
import torch
from helpers import tiny_shared
from rich.console import Console

from sharedllm.benchmark import benchmark_reading, exponent, format_table, total_tokens
from sharedllm.benchmark.reading import count_flops

LENGTHS = (40, 64)


@pytest.fixture(scope="module")
def model():
    return tiny_shared("llama")


@pytest.fixture(scope="module")
def measured(model):
    read = []
    result = benchmark_reading(model, LENGTHS, repeats=2, batch_tokens=32, progress=read.append)
    return result, sum(read)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.1, 2.0])
def test_exponent(power):
    lengths = [8_192, 16_384, 65_536, 262_144]
    assert exponent(lengths, [3e-5 * n**power for n in lengths]) == pytest.approx(power)


def test_exponent_is_a_fit_through_all_points():
    """Times off the line by factors that cancel: the slope stays."""
    assert exponent([1, 2, 4, 8], [1 * 1.1, 2 / 1.1, 4 / 1.1, 8 * 1.1]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("lengths", "seconds"), [([8], [1.0]), ([8, 8], [1.0, 2.0]), ([8, 16], [1.0]), ([1, 2], [0.0, 1.0])]
)
def test_exponent_refuses(lengths, seconds):
    with pytest.raises(ValueError, match="lengths"):
        exponent(lengths, seconds)


def test_result(measured):
    result, read = measured
    assert read == total_tokens(LENGTHS, 2) == 2 * 2 * sum(LENGTHS)
    assert [row["tokens"] for row in result["lengths"]] == list(LENGTHS)
    for row in result["lengths"]:
        for kind in ("seconds", "plain_seconds", "saved"):
            spread = row[kind]
            assert len(spread["values"]) == 2
            assert spread["min"] <= spread["median"] <= spread["max"]
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"]["median"])
        assert row["saved"]["max"] < 1
    # Four full chunks of 16 at ratios 4, 2, 1: 8/4 + 4/2 + 4/1 kept tokens each.
    assert result["lengths"][1]["kept"] == 4 * (2 + 2 + 2 + 2)
    assert isinstance(result["exponent"], float) and isinstance(result["plain_exponent"], float)
    assert result["environment"]["torch"] == torch.__version__
    assert result["environment"]["threads"] == torch.get_num_threads()
    assert result["model"]["lower_layers"] == 3
    assert json.loads(json.dumps(result)) == result


def test_single_length_has_no_exponent(model):
    assert benchmark_reading(model, (20,), repeats=1)["exponent"] is None


def test_flops_by_hand():
    """Two lower layers: the shortcut keeps layer 1's keys and values of all tokens, and the rest of the sampled ones."""
    model = tiny_shared("llama", lower_layers=2, ratios=[4], injection_map=[[0, 0], [1, 1]], encoding="chunk")
    tokens, kept, hidden, kv, mlp = 16, 4, 32, 16, 48
    counted = count_flops(model, torch.zeros(1, tokens, dtype=torch.long))

    def layer(queries: int) -> int:
        """Products of a layer where only `queries` tokens go through it."""
        linear = tokens * 2 * hidden * kv + queries * (2 * hidden * hidden + 3 * hidden * mlp)
        return 2 * (linear + queries * tokens * 2 * hidden)

    projections = 2 * 2 * kept * 2 * hidden * kv
    assert counted["tokens"] == tokens
    assert counted["shortcut"] == layer(kept) + projections
    assert counted["plain"] == 2 * layer(tokens) + projections
    assert counted["saved"] == pytest.approx(1 - counted["shortcut"] / counted["plain"])


def test_model_is_left_as_it_was(model):
    model.train()
    benchmark_reading(model, (20,), repeats=1)
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("change", "name"), [({"lengths": ()}, "lengths"), ({"lengths": (0,)}, "lengths"), ({"repeats": 0}, "repeats")]
)
def test_refuses(model, change, name):
    with pytest.raises(ValueError, match=name):
        benchmark_reading(model, **{"lengths": (8,)} | change)


def test_table(measured):
    result, _ = measured
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(format_table(result))
    text = captured.get()
    assert "tokens/s" in text and "power of" in text and "saved" in text
    assert all(f"{n}" in text for n in LENGTHS)
