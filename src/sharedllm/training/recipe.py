"""A training run as a YAML file: model, data and schedule. Unknown keys are refused by name.

`recipes/reference.yaml` shows every key with its type and default.
"""

import dataclasses
import difflib
import os
import re
import sysconfig
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ..model.config import RENAMED
from ..systems.trained import methods
from ..utils.errors import UserError

# The paper's training mixture (arXiv 2603.04759, after RedPajama), in per cent.
MIXTURES = {
    "redpajama": {
        "arxiv": 2.5,
        "books": 4.5,
        "c4": 15.0,
        "commoncrawl": 67.0,
        "github": 4.5,
        "stackexchange": 2.0,
        "wikipedia": 4.5,
    }
}


@dataclass
class Source:
    """A domain: `files` are files, folders, globs or hub: ids; `weight` is its share of the samples."""

    files: list[str] | str
    weight: float | None = None
    validation: list[str] | str | None = None

    def __post_init__(self):
        self.files = [self.files] if isinstance(self.files, str) else self.files
        self.validation = [self.validation] if isinstance(self.validation, str) else self.validation


@dataclass
class Data:
    """The sources of the text and the folder for its tokens."""

    folder: str
    sources: dict[str, Source]
    tokenizer: str | int | None = None
    mixture: str | None = None
    validation_share: float = 0.02
    text_field: str = "text"
    cross_documents: bool = False
    instructions: list[str] = field(default_factory=list)
    chat: bool = False


@dataclass
class PhaseKeys:
    """A phase of the run: the form of its samples. None: the recipe's value.

    `strides` lists alternative strides of the tree's levels; each micro-batch gets one of them.
    """

    share: float = 1.0
    context: int | None = None
    running: int | None = None
    strides: list[list[int]] | None = None
    kinds: dict[str, float] | None = None
    questions: int | None = None
    distractors: dict[int, float] | None = None


@dataclass(frozen=True)
class Phase:
    """A phase with all values filled in; `share` is its share of all steps."""

    share: float
    context: int
    running: int
    strides: list[list[int]] | None
    kinds: dict[str, float]
    questions: int
    distractors: dict[int, float]

    @property
    def length(self) -> int:
        """Tokens per sample."""
        return self.context + self.running


@dataclass
class Lora:
    """Low-rank adapters (peft); merged into the final weights."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


@dataclass
class Validation:
    """Loss by context length and recall, every `every` steps. Lengths are in windows; `strides` are used for recall."""

    every: int = 100
    rows: int = 16
    windows: list[float] = field(default_factory=lambda: [0, 1, 2, 4, 8])
    tasks: list[str] = field(default_factory=lambda: ["copy", "needle"])
    task_rows: int = 16
    strides: list[int] | None = None


@dataclass
class Recipe:
    """Everything that decides a run; the same recipe and seed give the same losses."""

    stage: Literal["base", "extend", "instruct"]
    output: str
    steps: int
    data: Data
    train: dict[str, float]
    base: str | None = None
    method: str = "sharedllm"
    model: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    context: int = 512
    running: int = 512
    kinds: dict[str, float] = field(default_factory=lambda: {"text": 1.0})
    weights: dict[str, float] = field(default_factory=dict)
    questions: int = 1
    distractors: dict[int, float] = field(default_factory=lambda: {0: 1.0})
    schedule: list[PhaseKeys] = field(default_factory=lambda: [PhaseKeys()])
    batch_tokens: int = 16_384
    micro_tokens: int = 8_192
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    warmup: float = 0.01
    decay: Literal["cosine", "linear", "trapezoid", "constant"] = "cosine"
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    save_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    activation_checkpointing: bool = False
    lora: Lora | None = None
    validation: Validation = field(default_factory=Validation)
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    log_every: int = 1
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("steps", "batch_tokens", "micro_tokens", "checkpoint_every", "keep_checkpoints", "running"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.context < 0:
            raise UserError(f"context={self.context} must not be negative.")
        if not self.train and self.lora is None:
            raise UserError("train={} trains nothing: name at least one part and its learning rate, or lora.")
        if not self.schedule or any(phase.share <= 0 for phase in self.schedule):
            raise UserError("schedule must list at least one phase, each with a share above 0.")
        if self.data.mixture is not None and self.data.mixture not in MIXTURES:
            raise UserError(f"data.mixture={self.data.mixture!r} is unknown: use one of {', '.join(MIXTURES)}.")
        if self.method not in methods():
            raise UserError(f"method={self.method!r} is not known: use one of {', '.join(methods())}.")
        if self.stage == "base" and self.method != "sharedllm":
            raise UserError(f"method={self.method!r} extends a base: set stage: extend, or leave method out.")
        if self.stage != "base" and self.base is None:
            raise UserError(
                f"base is missing: stage {self.stage!r} starts from a checkpoint; name its folder or hub id."
            )
        for phase in self.phases():
            if self.micro_tokens % phase.length or self.batch_tokens % self.micro_tokens:
                raise UserError(
                    f"micro_tokens={self.micro_tokens} must hold whole samples of {phase.length} tokens, and "
                    f"batch_tokens={self.batch_tokens} whole micro-batches: make them multiples."
                )
            if min(phase.kinds.values(), default=-1) < 0 or sum(phase.kinds.values()) <= 0:
                raise UserError(f"kinds={phase.kinds} must give at least one kind of sample a share above 0.")

    def phases(self) -> list[Phase]:
        """The schedule with the recipe's own values filled in; contexts of the stage `base` are empty."""
        whole = sum(phase.share for phase in self.schedule)
        return [
            Phase(
                share=phase.share / whole,
                context=0 if self.stage == "base" else self.context if phase.context is None else phase.context,
                running=self.running if phase.running is None else phase.running,
                strides=phase.strides,
                kinds=self.kinds if phase.kinds is None else phase.kinds,
                questions=self.questions if phase.questions is None else phase.questions,
                distractors=self.distractors if phase.distractors is None else phase.distractors,
            )
            for phase in self.schedule
        ]

    def domain_weights(self) -> dict[str, float]:
        """Each domain's share of the samples."""
        preset = MIXTURES.get(self.data.mixture or "", {})
        weights = {}
        for name, source in self.data.sources.items():
            weight = source.weight if source.weight is not None else preset.get(name)
            if weight is None:
                if preset:
                    raise UserError(f"data.sources.{name} has no weight and is not in the mixture {self.data.mixture}.")
                weight = 1.0
            if weight <= 0:
                raise UserError(f"data.sources.{name}.weight={weight} must be above 0; leave the domain out instead.")
            weights[name] = weight
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; `overrides` are `key=value` or `key.inner=value`, values in YAML.

    `${NAME}` in a string is replaced by an environment variable, `${STDLIB}` by the folder of Python's standard library.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, or a value is invalid.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read the recipe {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values; recipes/reference.yaml shows them.")
    replace_keys(content, overrides or [])
    try:
        return build_recipe(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def replace_keys(content: dict[str, Any], overrides: list[str]) -> None:
    """Set keys in place: `key=value` or `key.inner=value`, values in YAML.

    Raises:
        UserError: an override has another form, or addresses a key inside a value without keys.
    """
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"--set {override!r} must be key=value, such as steps=100 or model.window=1024.")
        target, *rest = content, *key.split(".")
        for name in rest[:-1]:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {override!r}: {name} holds no keys.")
        target[rest[-1]] = yaml.safe_load(value)


def build_recipe(content: dict[str, Any]) -> Recipe:
    """A recipe from its keys; see `load_recipe`."""
    return _build(Recipe, substitute(todays_names(content)), "")


def todays_names(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys under their current names. Other systems have their own settings of these names."""

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(inner) for inner in value]
        return {RENAMED.get(key, key): inner for key, inner in value.items()} if isinstance(value, dict) else value

    places = {"schedule", "validation"} | ({"model"} if content.get("method", "sharedllm") == "sharedllm" else set())
    return content | {key: rename(content[key]) for key in places & content.keys()}


def substitute(value: Any) -> Any:
    """Substitute environment variables in all strings of dicts and lists; see `load_recipe`.

    Raises:
        UserError: a variable is not set; names it.
    """
    if isinstance(value, dict):
        return {key: substitute(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        name = match[1]
        known = sysconfig.get_paths()["stdlib"] if name == "STDLIB" else os.environ.get(name)
        if known is None:
            raise UserError(f"the environment variable {name} in {value!r} is not set: export {name}=….")
        return known

    return re.sub(r"\$\{(\w+)\}", replace, value)


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or a UserError that names the key."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        problems = []
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _build(option, value, where)
            except ValueError as error:
                problems.append(error)
        raise problems[0]
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}={value!r} must be one of {', '.join(map(str, arguments))}.")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}={value!r} must hold keys and values.")
        return {_build(arguments[0], k, where): _build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise UserError(f"{where}={value!r} must be a list.")
        return [_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-5 as text.
        try:
            return float(value)
        except ValueError:
            raise UserError(f"{where}={value!r} must be a number.") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}={value!r} must be of type {kind.__name__}.")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where or 'the recipe'}={value!r} must hold keys and values.")
    prefix = f"{where}." if where else ""
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f" do you mean {near[0]}?" if near else f" use one of {', '.join(hints)}."
            raise UserError(f"{prefix}{key} is not a key of a recipe:{hint}")
    for entry in dataclasses.fields(kind):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in value:
            raise UserError(f"{prefix}{entry.name} is missing.")
    return kind(**{key: _build(hints[key], inner, f"{prefix}{key}") for key, inner in value.items()})
