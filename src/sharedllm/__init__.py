"""SharedLLM (arXiv 2603.04759): a short-window language model that reads texts far longer than its window."""

from .config import SharedLLMConfig
from .memory import ContextMemory
from .modeling import SharedLLMForCausalLM, SharedLLMModel

__all__ = ["ContextMemory", "SharedLLMConfig", "SharedLLMForCausalLM", "SharedLLMModel"]
