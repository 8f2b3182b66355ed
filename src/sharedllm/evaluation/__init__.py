"""Systems side by side: the same targets, the same texts, intervals, results as JSON."""
