"""Single questions and conversations over a memory, with the sources of the answers."""
