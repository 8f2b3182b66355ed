"""`sharedllm demo`: text (sources), measurements (measure, cost) and figure (plot)."""
