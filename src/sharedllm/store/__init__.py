"""Memories on disk: documents are read once, added, removed, and asked many times without loading them.

`opening` has `open_memory`, which opens both these folders and single files."""

from ..memory.interface import Damage
from .manifest import Block, Document
from .opening import check, is_memory, look, open_memory
from .store import MemoryStore

__all__ = ["Block", "Damage", "Document", "MemoryStore", "check", "is_memory", "look", "open_memory"]
