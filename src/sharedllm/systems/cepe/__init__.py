"""CEPE (arXiv 2402.16617): a small bidirectional encoder reads the context, every decoder layer cross-attends to it."""

from .config import CepeConfig
from .memory import CepeMemory
from .modeling import CepeForCausalLM

__all__ = ["CepeConfig", "CepeForCausalLM", "CepeMemory"]
