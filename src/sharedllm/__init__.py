"""SharedLLM (arXiv 2603.04759): a short-window language model that reads texts far longer than its window."""

from .backbone import SharedLLMModel
from .bundled import bundled_model
from .chat import Chat
from .config import SharedLLMConfig
from .memory import ContextMemory
from .memory_file import open_memory, save_memory
from .modeling import SharedLLMForCausalLM

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
