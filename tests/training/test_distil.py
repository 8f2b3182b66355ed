"""Self-distillation against a slow reference, and the control without a memory."""

import copy
import json

import pytest
import torch
from helpers import padded_rows, tiny_base, tiny_shared
from torch.nn.functional import kl_div

from sharedllm.model.targets import IGNORE
from sharedllm.training.log import read_log
from sharedllm.training.losses import RowLosses
from sharedllm.training.parts import add_lora, learning_rates
from sharedllm.training.recipe import Distil, Lora

LORA = {"rank": 2, "alpha": 4.0}


def adapted(base, injection: str, temperature: float = 1.0) -> RowLosses:
    """With adapters that are not 0, and open gates."""
    model = tiny_shared("llama", base=copy.deepcopy(base), injection=injection, encoding="chunk", split_noise=0.0)
    train = {"lora": 1.0, "gates": 1.0} if injection == "cross" else {"lora": 1.0}
    losses = RowLosses(add_lora(model, Lora(**LORA), train).train(), Distil(0.5, temperature))
    learning_rates(losses, train, model.config)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(losses.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    return losses


def reference(losses: RowLosses, base, temperature: float, shifts: list[int], rows: dict) -> torch.Tensor:
    """Row by row: a separate copy of the base reads the contexts and the running text as one sequence."""
    given = []
    model = losses.model.get_base_model()
    for row in range(4):
        texts = [(row + shift) % 4 for shift in shifts] if rows["context_mask"][row].any() else []
        far = [rows["context"][other][rows["context_mask"][other]] for other in texts]
        near = rows["running"][row][rows["running_mask"][row]]
        labels = rows["labels"][row][rows["running_mask"][row]]
        with torch.no_grad():
            whole = base(torch.cat([*far, near])[None]).logits[0, -len(near) :]
        memory = None
        for text in far:
            if len(text):
                part = model.read(text[None], gradients=True, fingerprint=False)
                memory = part if memory is None else memory.append(part)
        ours = model(near[None], memory=memory, use_cache=False).logits[0]
        learnt = labels[1:] != IGNORE
        given_log, expected_log = ((logits[:-1][learnt] / temperature).log_softmax(-1) for logits in (ours, whole))
        value = kl_div(given_log, expected_log, reduction="none", log_target=True).sum() * temperature**2
        given.append(value / learnt.sum().clamp(min=1))
    return torch.stack(given)


@pytest.mark.parametrize(
    ("injection", "temperature", "shifts"),
    [("cross", 1.0, [0]), ("joint", 2.0, [0]), ("deep", 1.0, [0]), ("joint", 1.0, [1, 0])],
)
def test_divergence_and_its_gradients_are_those_of_a_second_copy(injection, temperature, shifts):
    base = tiny_base("llama", max_position_embeddings=128)
    losses = adapted(base, injection, temperature)
    rows = padded_rows() if shifts == [0] else padded_rows((32, 0, 16, 16))  # whole chunks can be joined
    got = losses(**rows, shifts=shifts).divergence
    expected = reference(losses, base, temperature, shifts, rows)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert (got > 0.01).tolist() == [True, True, False, True], "nothing to learn, nothing to differ in"
    trained = {name: p for name, p in losses.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "gate" in name for name in trained)
    gradients = [torch.autograd.grad(v.sum(), list(trained.values()), allow_unused=True) for v in (got, expected)]
    for name, one, two in zip(trained, *gradients, strict=True):
        assert (one is None) == (two is None), name
        if one is not None:
            torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-2, msg=name)


def test_a_model_that_is_the_base_does_not_differ_from_it():
    """Without a context and without training the divergence is 0; in evaluation nothing is compared."""
    base = tiny_base("llama")
    model = tiny_shared("llama", base=base, injection="joint", encoding="chunk")
    losses = RowLosses(add_lora(model, Lora(**LORA), {"lora": 1.0}).train(), Distil())
    rows = padded_rows()
    del rows["context"], rows["context_mask"]
    assert losses(**rows).divergence.abs().max() < 1e-5
    assert losses.eval()(**padded_rows()).divergence.tolist() == [0.0] * 4
    assert losses.train()(**padded_rows()).divergence.max() > 0.01


def test_the_control_reads_nothing():
    """It has the same labels as the run that reads, and the losses of rows without a context."""
    model = tiny_shared("llama", selection="cosine")
    read, control = (RowLosses(model, empty=empty) for empty in (False, True))
    rows = padded_rows() | {"query": torch.ones(4, 3).long(), "query_mask": torch.ones(4, 3).bool()}
    alone = {name: tensor for name, tensor in rows.items() if "context" not in name and "query" not in name}
    chose = rows["running_mask"] & (rows["running_mask"].cumsum(1) <= 3)
    alone["labels"] = alone["labels"].masked_fill(chose, IGNORE)  # what chose the context is no target
    with torch.no_grad():
        assert torch.equal(control(**rows).loss, read(**alone).loss)
        assert not torch.allclose(control(**rows).loss, read(**rows).loss)


@pytest.mark.slow
def test_a_control_run_sees_the_same_samples(run, recipe, tmp_path):
    settings = {"steps": 3, "lora": LORA, "train": {"lora": 0.01, "gates": 0.05}, "kinds": {"text": 1.0}}
    for control, stops in (("none", [None]), ("empty", [2, None])):
        for stop in stops:
            path = recipe(control, control=control, **settings)
            code, _, err = run("train", path, *(["--max-steps", stop] if stop else []))
            assert code == 0, err
    logs = {name: read_log(tmp_path / name / "log.jsonl") for name in ("none", "empty")}
    assert logs["none"][0]["before"] == logs["empty"][0]["before"]
    found = {
        name: [r["validation"]["words"] for r in records if "validation" in r][-1] for name, records in logs.items()
    }
    assert len(set(found["empty"].values())) == 1, "the same at every length"
    assert len(set(found["none"].values())) == 3


@pytest.mark.slow
def test_a_run_with_distillation(run, recipe, tmp_path):
    settings = {"lora": LORA, "train": {"lora": 0.01, "gates": 0.05}, "steps": 3}
    code, _, err = run("train", recipe(distil={"weight": 2.0}, **settings))
    assert code == 2 and "but it has 64 positions: shorten context and running" in err
    short = {"context": 32, "running": 32, "model": {"window": 32, "chunk_size": 16, "strides": [4, 2, 1]}}
    code, _, err = run("train", recipe(distil={"weight": 2.0}, **settings, **short | {"batch_tokens": 512}))
    assert code == 0, err
    records = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "loss" in r]
    assert all(record["divergence"].keys() == record["loss"].keys() for record in records)
    assert all(value >= 0 for record in records for value in record["divergence"].values())
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["distil"] == {"weight": 2.0, "temperature": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distil": {"weight": 0.0}}, "distil.weight=0.0 must be above 0"),
        ({"distil": {"temperature": -1.0}}, "distil.temperature=-1.0 must be above 0"),
        ({"distil": {}}, "distil needs the base's own weights frozen, but train has embeddings"),
        ({"distil": {}, "system": "beacon"}, "distil works with system sharedllm or tuned, not 'beacon'"),
        ({"control": "empty", "stage": "base"}, "control='empty' is for contexts"),
    ],
)
def test_impossible_recipes(run, recipe, changes, message):
    code, _, err = run("train", recipe(**changes))
    assert code == 2 and message in " ".join(err.split())
