"""Lower model, upper model, and the injection of a memory."""
