"""What reading and answering cost: SharedLLM beside its rivals in one run, with operations counted and memory measured."""
