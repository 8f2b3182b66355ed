"""Lower model, upper model, and how a memory is injected."""
