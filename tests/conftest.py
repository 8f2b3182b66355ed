"""What all tests share is in `support/everywhere.py`. It takes seconds to import, so that only processes that run tests load it."""

import os

# Modules whose annotations say shapes of tensors, which tests check. They must not be imported yet.
# Not those with modules of torch: what wraps their `forward` can't be compiled.
CHECKED = [
    "sharedllm.context",
    "sharedllm.memory.int8",
    "sharedllm.model.attention",
    "sharedllm.model.kernels",
    "sharedllm.model.rope",
    "sharedllm.model.self_attention",
    "sharedllm.reference",
    "sharedllm.scoring",
]


def pytest_addoption(pluginmanager):
    """Called before the files like this one in folders of tests are imported, which import what is checked."""
    distributes = getattr(pluginmanager.get_plugin("pytestconfig").known_args_namespace, "numprocesses", None)
    if "PYTEST_XDIST_WORKER" in os.environ or not distributes:
        from shapes import check_shapes

        check_shapes(CHECKED)
        pluginmanager.import_plugin("everywhere")
