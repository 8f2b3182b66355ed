"""A system's entry in the registry. Classes and functions are strings `module:name`, imported on first use."""

from dataclasses import dataclass
from typing import Any, Literal

from ..utils.registry import load

Needs = Literal["model", "base", "trained"]


@dataclass(frozen=True)
class Part:
    """A part of a system that a recipe may train. within: text in its parameters' names; "" if `training.parts` decides."""

    name: str
    about: str
    within: str = ""


@dataclass(frozen=True)
class Trained:
    """How recipes train a system; they use its name in the registry.

    model       class with `from_base(base, **settings)`, and `extended_config` of the same arguments; "" for the base itself with
                other settings
    model_type  of its saved configuration
    parts       parts that can train, besides `everything`
    windowed    whether the running text must fit into its setting `window`
    """

    model: str = ""
    model_type: str = ""
    parts: tuple[Part, ...] = ()
    windowed: bool = False

    def model_class(self) -> Any:
        return load(self.model)


@dataclass(frozen=True)
class System:
    """One way of reading a long text with a short window.

    about      one line, for help and docs
    color      of its curves
    needs      the model to measure it with: a SharedLLM, its base, or one trained as this system
    variants   forms of its name with settings, such as "NAME:POLICY"; "" for none
    evaluated  function from `evaluated.SystemSpec` to an `EvaluatedSystem`
    timed      subclass of `timed.TimedSystem`; it counts operations too
    answering  class of an `answering.AnsweringSystem`
    asked      function (name, variant, `evaluation.qa` Resources) → the system for `sharedllm qa`; it is in evaluation/qa,
               with the reader that it needs
    trained    how it is trained
    """

    name: str
    about: str
    color: str
    needs: Needs = "base"
    variants: str = ""
    evaluated: str = ""
    timed: str = ""
    answering: str = ""
    asked: str = ""
    trained: Trained | None = None

    @property
    def page(self) -> str:
        """Its page in the docs."""
        return f"docs/systems.md#{self.name}"
