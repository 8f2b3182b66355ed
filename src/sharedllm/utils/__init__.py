"""Helpers below the language model: text, files, hardware, checkpoints by name."""
