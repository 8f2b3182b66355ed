"""Systems that are trained, as recipes and saved models name them."""

from . import SYSTEMS
from .entry import Part, Trained


def trained_systems() -> list[Trained]:
    """How each system is trained that is."""
    return [system.trained for system in SYSTEMS.values() if system.trained is not None]


def methods() -> list[str]:
    """What recipes call them."""
    return [trained.method for trained in trained_systems()]


def of_method(method: str) -> Trained:
    """The one that a recipe names."""
    return next(trained for trained in trained_systems() if trained.method == method)


def of_type(model_type: str) -> Trained | None:
    """The one whose saved configuration has this `model_type`; None for a base."""
    return next((t for t in trained_systems() if t.model_type and t.model_type == model_type), None)


def parts_of_type(model_type: str) -> tuple[Part, ...]:
    """What of a model can train, besides everything."""
    found = of_type(model_type)
    return found.parts if found is not None else ()


def import_models() -> None:
    """Make the models of all systems known to transformers, so that they can be loaded from a folder."""
    for trained in trained_systems():
        if trained.model:
            trained.model_class()
