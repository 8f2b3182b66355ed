"""SharedLLM as a system among others: its own ways of reading, and its control without a memory."""
