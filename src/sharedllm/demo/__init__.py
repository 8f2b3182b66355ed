"""What `sharedllm demo` reads (sources), measures (measure, cost) and draws (plot)."""
