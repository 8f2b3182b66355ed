"""SharedLLM (arXiv 2603.04759): a short-window language model that reads texts far longer than its window."""

from .answering.chat import Chat
from .causal_lm import SharedLLMForCausalLM
from .memory.context_memory import ContextMemory
from .memory.file import open_memory, save_memory
from .model.backbone import SharedLLMModel
from .model.config import SharedLLMConfig
from .utils.checkpoints import bundled_model

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "ContextMemory",
    "SharedLLMConfig",
    "SharedLLMForCausalLM",
    "SharedLLMModel",
    "bundled_model",
    "open_memory",
    "save_memory",
]
