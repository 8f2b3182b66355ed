"""Micro-batches: which samples a run reads."""

import numpy as np
from helpers import byte_tokenizer

from sharedllm.data.rows import RowMaker
from sharedllm.training.batches import Batches
from sharedllm.training.recipe_file import build_recipe


class Store:
    """One document of consecutive numbers."""

    folder, names, lengths = "store", ["numbers"], (10_000,)

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return np.arange(start, start + length)


def first_tokens(schedule) -> list[list[int]]:
    """The first token of every sample, by phase."""
    keys = {"stage": "extend", "base": "base", "output": "run", "steps": 8, "train": {"everything": 1.0}}
    sizes = {"context": 16, "running": 16, "batch_tokens": 128, "micro_tokens": 64}
    data = {"folder": "tokens", "sources": {"numbers": {"files": "numbers.txt"}}}
    recipe = build_recipe(keys | sizes | {"data": data, "schedule": schedule})
    batches = Batches(recipe, {"numbers": Store()}, RowMaker(byte_tokenizer(), "train"))
    phases = [[] for _ in schedule]
    for step in range(recipe.steps):
        for micro in range(batches.per_step):
            phases[batches.phase_of(step)] += batches(step, micro).context[:, 0].tolist()
    return phases


def test_a_phase_goes_on_in_the_text_where_the_last_one_of_its_length_ended():
    begun = {"share": 0.5, "strides": [[1, 1, 1]]}
    first, second = first_tokens([begun, {"share": 0.5}])
    assert len(first) == len(second) == 16
    assert not set(first) & set(second)
    (whole,) = first_tokens([{"share": 1}])
    assert first + second == whole
    first, between, third = first_tokens([begun, {"share": 0.25, "context": 48}, {"share": 0.25}])
    assert first + third == whole[:24] and between
