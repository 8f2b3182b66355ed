"""Trained systems, looked up by the names in recipes and saved models."""

from . import SYSTEMS
from .entry import Part, Trained


def trained_systems() -> list[Trained]:
    """The entries of all trained systems."""
    return [system.trained for system in SYSTEMS.values() if system.trained is not None]


def methods() -> list[str]:
    """Their names in recipes."""
    return [trained.method for trained in trained_systems()]


def of_method(method: str) -> Trained:
    """The system that a recipe names."""
    return next(trained for trained in trained_systems() if trained.method == method)


def of_type(model_type: str) -> Trained | None:
    """The system whose saved configuration has this `model_type`; None for a base."""
    return next((t for t in trained_systems() if t.model_type and t.model_type == model_type), None)


def parts_of_type(model_type: str) -> tuple[Part, ...]:
    """The parts of a model that can train, besides everything."""
    found = of_type(model_type)
    return found.parts if found is not None else ()


def import_models() -> None:
    """Register the models of all systems with transformers, so that they can be loaded from a folder."""
    for trained in trained_systems():
        if trained.model:
            trained.model_class()
