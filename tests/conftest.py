"""Settings of all tests: one thread, so that tiny models run fast and results repeat; no deadlines, for busy machines."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")
