"""Evaluation of systems side by side: on the same targets and texts, with intervals and results as JSON."""
