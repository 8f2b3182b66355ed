"""Calibration: the heads that find facts are found, and only they are used."""

import json
import shutil

import pytest
import torch
from helpers import byte_tokenizer, tiny_shared
from transformers import AutoTokenizer

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.diagnosis.heads import Head, choose_heads, measure_heads
from sharedllm.memory.segments import segments_of
from sharedllm.scoring.attention import AttentionScore
from sharedllm.scoring.base import spread

MAP = [[1, 1], [2, 2], [2, 3]]


@torch.no_grad()
def test_chosen_heads_count_by_their_weights():
    model = tiny_shared("llama", injection="joint", encoding="chunk", injection_map=MAP)
    ids = torch.randint(0, 101, (1, 90), generator=torch.Generator().manual_seed(0))
    memory, query = model.read(ids, keep_all=True), ids[:, 40:46]
    real = torch.ones_like(query, dtype=torch.bool)
    by_head = {}
    for layer, heads, _, weights in AttentionScore().by_head(model.model, segments_of(memory), query, real):
        for place, (head, _) in enumerate(heads):
            by_head[layer, head] = weights[0, place]
    assert len(by_head) == 12
    model.config.selection_heads = [[1, 3, 0.5], [3, 0, 2.0], [3, 2, 1.0]]
    expected = 0.5 * by_head[1, 3] + 2.0 * by_head[3, 0] + by_head[3, 2]
    torch.testing.assert_close(model.scores(memory, query, score="attention")[0], spread(expected[None])[0])


@pytest.mark.slow
@torch.no_grad()
def test_the_bundled_model_has_heads_that_find(tmp_path):
    model = SharedLLMForCausalLM.from_pretrained(bundled_model()).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    own = model.config.selection_heads
    text = torch.randint(300, 4000, (3000,), generator=torch.Generator().manual_seed(0))
    heads = measure_heads(model, tokenizer, text, questions=6)
    assert model.config.selection_heads == own
    assert len(heads) == 48 and heads[0].score > 0.5 > heads[-1].score
    best = {(head.layer, head.head) for head in heads[:8]}
    shipped = [(layer, head) for layer, head, weight in own if weight > 0.4]
    assert len(shipped) >= 2 and set(shipped) <= best, "they are among the best in another text too"


def test_only_a_joint_softmax_has_heads_that_choose():
    for injection, fix in (
        ("cross", "--injection joint"),
        ("deep", "`sharedllm extend` has measured this model's heads"),
    ):
        model = tiny_shared("llama", encoding="chunk", injection=injection)
        with pytest.raises(ValueError, match=f"injection='{injection}': .*{fix}"):
            measure_heads(model, byte_tokenizer(), torch.zeros(100, dtype=torch.long))


def test_choice():
    heads = [Head(3, 1, 0.8, 2), Head(4, 0, 0.5, 9), Head(3, 0, 0.39, 20), Head(0, 0, 0.1, 900)]
    assert choose_heads(heads) == [[3, 1, 0.8], [4, 0, 0.5]]
    assert choose_heads(heads, most=1) == [[3, 1, 0.8]]


def test_calibrate(run, tmp_path):
    folder, text = tmp_path / "model", tmp_path / "text.txt"
    shutil.copytree(bundled_model(), folder)
    text.write_text("It was a dark and stormy night, and nobody was on the road. " * 200)
    options = ["--data", text, "--tokens", 1500, "--questions", 3, "--most", 2]
    before = (folder / "config.json").read_text()
    code, out, _ = run("calibrate", folder, *options, "--dry-run", "--json")
    chosen = json.loads(out)["selection_heads"]
    assert code == 0 and 1 <= len(chosen) <= 2 and (folder / "config.json").read_text() == before
    assert run("calibrate", folder, *options)[0] == 0
    assert json.loads((folder / "config.json").read_text()) == json.loads(before) | {"selection_heads": chosen}
    for arguments, message in (
        (["tiny", *options], "not a folder with a config.json"),
        ([folder, "--data", text, "--tokens", 100_000], "--tokens asks for 100,000"),
        ([folder, "--data", tmp_path / "none.txt"], "does not exist"),
    ):
        code, _, err = run("calibrate", *arguments)
        assert code == 2 and message in err.replace("\n", " "), err


@pytest.mark.parametrize("heads", [[[0, 0, 1.0]], [[1, 4, 1.0]], [[1, 0, 0.0]], [[1, 0]]])
def test_heads_that_cannot_be(heads):
    with pytest.raises(ValueError, match="selection_heads has"):
        tiny_shared("llama", injection="joint", encoding="chunk", injection_map=MAP, selection_heads=heads)
