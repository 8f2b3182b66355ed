"""The ways of injection that `sharedllm extend` knows, and what each takes where nothing is said."""

from typing import Any, Literal

Injection = Literal["deep", "joint", "cross"]
# What is taken where nothing is said. A depth of None is measured.
DEFAULTS: dict[Injection, dict[str, Any]] = {
    "deep": {"encoding": "chunk", "chunk_size": 2048, "lower_layers": None},
    "joint": {"encoding": "chunk", "chunk_size": 1024, "lower_layers": 4},
    "cross": {"encoding": "node", "chunk_size": 1024, "lower_layers": 4},
}


def default(field: str) -> str:
    """The default of an option, for its help: "2048 (deep), 1024 (joint, cross)"."""
    values: dict[str, list[str]] = {}
    for injection, defaults in DEFAULTS.items():
        values.setdefault("measured" if defaults[field] is None else str(defaults[field]), []).append(injection)
    return "Default: " + ", ".join(f"{value} ({', '.join(names)})" for value, names in values.items()) + "."
