"""A shape small enough for tests of the benchmark, and its contenders."""

import torch

from sharedllm.benchmark.contenders import DESCRIPTIONS, Contender, Setting, make_contenders
from sharedllm.benchmark.shapes import Shape

TOY = Shape(
    "toy", 32, 48, 4, 4, 2, 101, window=32, lower_layers=3, chunk_size=16, budget=24, batch_tokens=48, strides=(8, 4, 2)
)
NEW = 3


def toy_contenders() -> dict[str, Contender]:
    setting = Setting(TOY, NEW, TOY.batch_tokens)
    return make_contenders(list(DESCRIPTIONS), setting, torch.float32, torch.device("cpu"))
