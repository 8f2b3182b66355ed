"""Trained rivals of SharedLLM, built on the same bases and trained by the same trainer."""
