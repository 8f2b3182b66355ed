"""What knows nothing of language models: text, files, hardware, checkpoints by name."""
