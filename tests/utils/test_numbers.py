"""Numbers that users give: whole, from 1, and of any size."""

import math
from functools import cache

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from safetensors.torch import load_file, save_file

from sharedllm import Chat
from sharedllm.answering.ask import ask
from sharedllm.context.budget import kept_within
from sharedllm.context.pieces import Pieces, choose_pieces
from sharedllm.utils.checkpoints import load_model

TEXT = torch.arange(60)[None] % 50 + 1
HUGE = [2**31, 2**63 - 1, 2**63, 10**20, 10**400]
ODD = [1.5, math.nan, math.inf, True, "9", None, torch.tensor(1.5)]


@cache
def model_of(**settings):
    base = tiny_base("llama", vocab_size=256)
    return tiny_shared("llama", base=base, **{"window": 64, "injection": "joint", "encoding": "chunk"} | settings)


@pytest.mark.parametrize("budget", HUGE)
def test_a_budget_beyond_all_measure_reads_everything(budget):
    model, tokenizer = model_of(), byte_tokenizer()
    memory = model.read(TEXT, keep_all=True)
    assert model.select(memory, TEXT[:, :9], budget=budget, score="bm25").kept.tolist() == [60]
    assert ask(model, tokenizer, memory, "who", budget=budget, max_new_tokens=2, score="bm25").memory.kept.tolist() == [
        60
    ]
    assert Chat(model, tokenizer, memory, budget=budget, max_new_tokens=2, score="bm25").ask(
        "who"
    ).memory.kept.tolist() == [60]
    pieces = Pieces(torch.tensor([0, 4]), torch.tensor([4, 9]))
    assert choose_pieces(torch.tensor([1.0, 2.0]), pieces, budget).tolist() == [0, 1]


@pytest.mark.parametrize("budget", [*(odd for odd in ODD if odd is not None), 0, -1, -(2**63), -(10**20)])
def test_a_budget_that_is_no_number_of_tokens_is_refused(budget):
    model, tokenizer = model_of(), byte_tokenizer()
    memory = model.read(TEXT, keep_all=True)
    roots = torch.tensor([0]), torch.tensor([9])
    for use in (
        lambda: model.select(memory, TEXT[:, :9], budget=budget, score="bm25"),
        lambda: ask(model, tokenizer, memory, "who", budget=budget),
        lambda: Chat(model, tokenizer, memory, budget=budget),
        lambda: kept_within(torch.zeros(9), roots, [1], budget),
        lambda: choose_pieces(torch.tensor([1.0]), Pieces(torch.tensor([0]), torch.tensor([4])), budget),
    ):
        with pytest.raises(ValueError, match="budget="):
            use()


@pytest.mark.parametrize("wanted", [1.5, math.nan, True, "9", 0, -1])
def test_new_tokens_that_are_no_number_are_refused(wanted):
    with pytest.raises(ValueError, match="max_new_tokens="):
        model_of().generate(TEXT, max_new_tokens=wanted)


@pytest.mark.parametrize("gist", [-0.1, 1.5, math.nan])
def test_a_gist_that_is_no_share_is_refused(gist):
    with pytest.raises(ValueError, match="is not a share of the budget"):
        model_of().select(model_of().read(TEXT, keep_all=True), TEXT[:, :9], budget=9, score="bm25", gist=gist)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, run, value):
    folder = tmp_path / "model"
    model_of().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert load_model(str(folder)).num_parameters() > 0
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = sorted(n for n in weights if n.endswith("down_proj.weight"))[0]
    weights[name][3, 4] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 of the numbers in \S*{name} are NaN or infinite"):
        load_model(str(folder))
    code, out, err = run("generate", "--prompt", "a", "--model", folder, "--max-new-tokens", 3)
    assert (code, out) == (2, "") and "NaN or infinite" in err and err.count("\n") == 1


def test_large_weights_are_numbers(tmp_path):
    model = model_of()
    with torch.no_grad():
        model.model.upper.layers[0].mlp.down_proj.weight.fill_(3e38)  # their sum overflows float32
    model.save_pretrained(tmp_path / "model")
    assert load_model(str(tmp_path / "model")).num_parameters() > 0


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m, k: m.read(TEXT, batch_tokens=0), "batch_tokens=0 reads nothing"),
        (lambda m, k: m.read(TEXT, batch_tokens=-5), "batch_tokens=-5 reads nothing"),
        (lambda m, k: m.read(TEXT, batch_tokens=1.5), r"batch_tokens=1\.5 is not a whole number"),
        (lambda m, k: m.read(TEXT, strides=[1.5]), r"strides=\[1\.5\] must be"),
        (
            lambda m, k: m.select(k, TEXT[:, :9], budget=5, strides=[4, 8], score="bm25"),
            r"strides=\[4, 8\] must not grow",
        ),
        (lambda m, k: m.select(k, TEXT[:, :9], budget=5, score=torch.zeros(1, 3)), r"score has shape \(1, 3\)"),
        (lambda m, k: m.select(k, TEXT[:, :9], budget=5, score=torch.full((1, 60), math.nan)), "not NaN"),
        (lambda m, k: m.generate(TEXT[:, :9], memory=k, memory_dtype="int4", max_new_tokens=2), "memory_dtype='int4'"),
        (lambda m, k: m(TEXT[:, :9], labels=TEXT[:, :9], logits_to_keep=2), "logits_to_keep=2 with labels"),
    ],
)
def test_odd_arguments_are_refused(use, message):
    model = model_of()
    memory = model.read(TEXT, keep_all=True)
    with pytest.raises(ValueError, match=message):
        use(model, memory)
