"""What reading and answering cost: systems side by side in one run, with operations counted and memory measured."""
