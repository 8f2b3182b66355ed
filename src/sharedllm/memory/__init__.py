"""What is kept of a text: in memory, in a file, and as segments to select from."""
