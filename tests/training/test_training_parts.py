"""Trainable parts of a model, learning rates, gradient norms."""

import pytest
from helpers import tiny_base, tiny_shared

from sharedllm.systems.trained import parts_of_system
from sharedllm.training.parts import learning_rates, multiplier
from sharedllm.training.watch import NormWatch

PARTS = [part for part in parts_of_system("sharedllm") if part != "lora"]


@pytest.mark.parametrize("weights", ["shared", "copy"])
@pytest.mark.parametrize("part", PARTS)
def test_parts_are_disjoint_and_whole(weights, part):
    model = tiny_shared("llama", lower_weights=weights, injection_map=[[0, 0], [1, 1], [2, 3]])
    everything = learning_rates(model, {"everything": 1.0}, model.config)
    assert set(everything) == {name for name, _ in model.named_parameters()}
    parts = [p for p in PARTS if p != "everything" and not (weights == "shared" and p == "bottom_layers")]
    rates = learning_rates(model, {name: float(i + 1) for i, name in enumerate(parts)}, model.config)
    assert set(rates) == set(everything)
    if part == "everything":
        return
    alone = learning_rates(model, {part: 0.5}, model.config)
    assert alone
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(alone)
    if part == "gates":
        assert len(alone) == 3
    if part == "lower_model":
        assert all((".lower_layers." in n) == (weights == "copy") for n in alone)


def test_parts_that_are_not_there_are_refused():
    model = tiny_base("llama")
    with pytest.raises(ValueError, match=r"train\.gates: this model has no gates"):
        learning_rates(model, {"gates": 1.0}, None)


def test_multiplier_rises_and_falls():
    for kind in ("cosine", "linear", "trapezoid", "constant"):
        values = [multiplier(kind, step, 100, 0.1) for step in range(100)]
        assert values[0] == pytest.approx(0.1, abs=0.01)
        assert max(values) <= 1
        assert values[99] < 0.04 or kind == "constant"
    assert multiplier("trapezoid", 60, 100, 0.1) == 1
    assert multiplier("cosine", 50, 100, 0.0) == pytest.approx(0.5)


def test_a_norm_that_leaves_its_usual_size_is_seen():
    watch = NormWatch(times=10, steps=50)
    assert [watch(norm) for norm in (100.0, *[1.0] * 20)] == [None] * 21
    assert watch(9.0) is None and watch(50.0) == 50.0
    assert watch(50.0) == 50.0, "an outlier does not count as usual"
