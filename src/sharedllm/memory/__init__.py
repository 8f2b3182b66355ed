"""The memory of a text: in RAM, in a file, and as segments to select from."""
