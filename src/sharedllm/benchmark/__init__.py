"""Measurements of cost: how reading time grows with length, and what the shortcut of the lower model saves."""

from .reading import benchmark_reading, exponent, format_table, total_tokens

__all__ = ["benchmark_reading", "exponent", "format_table", "total_tokens"]
