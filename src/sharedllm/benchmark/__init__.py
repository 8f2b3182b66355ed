"""The cost of reading and answering: systems side by side in one run, with time, memory and operation counts."""
