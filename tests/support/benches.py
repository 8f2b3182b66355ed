"""A shape small enough for tests of the benchmark, and its systems."""

import torch

from sharedllm.benchmark.shapes import Shape
from sharedllm.benchmark.systems import make_timed
from sharedllm.systems.timed import TimedSystem, timed_names

TOY = Shape(
    "toy", 32, 48, 4, 4, 2, 101, window=32, lower_layers=3, chunk_size=16, budget=24, batch_tokens=48, strides=(8, 4, 2)
)
NEW = 3


def toy_systems() -> dict[str, TimedSystem]:
    setting = TOY.setting(NEW, TOY.batch_tokens)
    return make_timed(timed_names(), TOY, setting, torch.float32, torch.device("cpu"))
