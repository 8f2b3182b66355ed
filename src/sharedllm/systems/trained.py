"""Trained systems, looked up by the names in recipes, which are those of the registry, and by saved models' `model_type`."""

from . import SYSTEMS
from .entry import Part, Trained


def trained_systems() -> dict[str, Trained]:
    """The entries of all trained systems, by name."""
    return {name: system.trained for name, system in SYSTEMS.items() if system.trained is not None}


def system_of_type(model_type: str) -> str | None:
    """The name of the system whose saved configuration has this `model_type`; None for a base."""
    found = trained_systems().items()
    return next((name for name, trained in found if trained.model_type and trained.model_type == model_type), None)


def parts_of_type(model_type: str) -> tuple[Part, ...]:
    """The parts of a model that can train, besides everything."""
    name = system_of_type(model_type)
    return trained_systems()[name].parts if name is not None else ()


def parts_of_system(name: str | None) -> list[str]:
    """The parts that a recipe may name under `train` for a system, or for a base (None): `lora` are the low-rank adapters,
    `everything` all parameters that no other part names."""
    own = trained_systems()[name].parts if name is not None else ()
    return [*(part.name for part in own), "lora", "everything"]


def import_models() -> None:
    """Register the models of all systems with transformers, so that they can be loaded from a folder."""
    for trained in trained_systems().values():
        if trained.model:
            trained.model_class()
