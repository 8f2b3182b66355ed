"""Recall by length, budget and policy: each text is read once and asked many questions (texts → ask → run → report)."""
