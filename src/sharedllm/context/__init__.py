"""From a text to the spans that are kept: chunks, trees, policies, a budget. Pure functions."""
