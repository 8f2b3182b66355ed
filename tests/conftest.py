"""Settings of all tests: one thread, so that tiny models run fast and results repeat."""

import torch

torch.set_num_threads(1)
