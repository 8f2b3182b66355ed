"""SharedLLM (arXiv 2603.04759): a short-window language model that reads texts far longer than its window.

Public names are imported on first use, so `import sharedllm` is fast. transformers' Auto classes still know our
checkpoints, whichever of the two is imported first.
"""

# __getattr__ provides the names, __init__.pyi their types.
# pyright: reportUnsupportedDunderAll=false

import importlib
from typing import Any

from .auto import register_when_needed
from .utils.version import __version__

_PLACES = {
    "Chat": "answering.chat",
    "ContextMemory": "memory.context_memory",
    "SentenceEncoder": "scoring.encoder",
    "SharedLLMConfig": "causal_lm",
    "SharedLLMForCausalLM": "causal_lm",
    "SharedLLMModel": "model.backbone",
    "bundled_model": "utils.model_names",
    "open_memory": "store.opening",
    "save_memory": "memory.file",
}
__all__ = [
    "Chat",
    "ContextMemory",
    "SentenceEncoder",
    "SharedLLMConfig",
    "SharedLLMForCausalLM",
    "SharedLLMModel",
    "__version__",
    "bundled_model",
    "open_memory",
    "save_memory",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_needed()
