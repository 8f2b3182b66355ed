"""`python -m sharedllm`, for launchers that start modules."""

from .cli import main

main()
