"""SharedLLM as one of the systems: its ways of reading, and the control without a memory."""
