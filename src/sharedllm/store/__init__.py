"""Memories that live on disk: documents read once, added to, taken out, and asked many times without loading them."""

from .manifest import Block, Document
from .store import Damage, MemoryStore

__all__ = ["Block", "Damage", "Document", "MemoryStore"]
