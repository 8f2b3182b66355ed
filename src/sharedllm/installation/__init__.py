"""What is installed here and whether it works: the machine, extras, models on disk, and a self-check of ten seconds."""
