"""The keys of a training run: model, data and schedule. `recipe_file` reads them from YAML.

`recipes/reference.yaml` shows every key with its type and default.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.sources import resolve
from ..systems.trained import parts_of_system, trained_systems
from ..utils.errors import UserError, meant
from ..utils.files import there
from ..utils.model_names import checkpoint
from .limits import check_kinds, check_numbers, check_running, window_said

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
    """Low-rank adapters (peft); merged into the final weights. `layers`: numbers of the layers that get them; None: all."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    layers: list[int] | None = None


@dataclass
class Distil:
    """Self-distillation: the divergence from the base that has the whole text in its own window, beside the loss."""

    weight: float = 1.0
    temperature: float = 1.0


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
    system: str = "sharedllm"
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
    frozen: Literal["float32", "bfloat16"] = "float32"
    save_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    activation_checkpointing: bool = False
    lora: Lora | None = None
    distil: Distil | None = None
    control: Literal["none", "empty"] = "none"
    validation: Validation = field(default_factory=Validation)
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    log_every: int = 1
    tensorboard: bool = False

    def __post_init__(self):
        if not self.train and self.lora is None:
            raise UserError("train={} trains nothing: name at least one part and its learning rate, or lora.")
        if not self.schedule or any(phase.share <= 0 for phase in self.schedule):
            raise UserError("schedule must list at least one phase, each with a share above 0.")
        check_numbers(self)
        if not self.data.sources:
            raise UserError("data.sources={} names no text: give at least one domain with its files.")
        if self.data.mixture is not None and self.data.mixture not in MIXTURES:
            raise UserError(f"data.mixture={self.data.mixture!r} is unknown: use one of {', '.join(MIXTURES)}.")
        if self.system not in trained_systems():
            raise UserError(f"system={self.system!r} is not known: use one of {', '.join(trained_systems())}.")
        if self.stage == "base" and self.system != "sharedllm":
            raise UserError(f"system={self.system!r} extends a base: set stage: extend, or leave system out.")
        if self.frozen == "bfloat16" and self.precision != "bf16":
            raise UserError(
                f"frozen={self.frozen} needs precision: bf16, which multiplies weights of both kinds; it is {self.precision!r}."
            )
        if self.control != "none" and self.stage == "base":
            raise UserError(
                f"control={self.control!r} is for contexts, which stage 'base' does not read: leave it out."
            )
        if self.distil is not None and self.system not in ("sharedllm", "tuned"):
            raise UserError(f"distil works with system sharedllm or tuned, not {self.system!r}: leave it out.")
        if self.stage != "base" and self.base is None:
            raise UserError(
                f"base is missing: stage {self.stage!r} starts from a checkpoint; name its folder or hub id."
            )
        check_kinds(self)
        parts = parts_of_system(None if self.stage == "base" else self.system)
        if wrong := next((part for part in self.train if part not in parts), None):
            raise UserError(
                f"train.{wrong} is no part of {'a base' if self.stage == 'base' else self.system}: {meant(wrong, parts)}"
            )
        window = self.model.get("window")
        if self.windowed and type(window) is int:
            check_running(self, window)
        for phase in self.phases():
            if self.micro_tokens % phase.length or self.batch_tokens % self.micro_tokens:
                raise UserError(
                    f"micro_tokens={self.micro_tokens} must hold whole samples of {phase.length:,} tokens, and "
                    f"batch_tokens={self.batch_tokens} whole micro-batches: make them multiples."
                )

    @property
    def windowed(self) -> bool:
        """Whether running text must fit into the model's window."""
        return self.stage != "base" and trained_systems()[self.system].windowed

    def check_files(self) -> None:
        """Refuse text and models that are not there, before anything slow is loaded for them.

        Raises:
            UserError: one is missing or of no supported kind, or as `check_base`.
        """
        for name, source in self.data.sources.items():
            for key, files in (("files", source.files), ("validation", source.validation)):
                try:
                    if files:
                        resolve(files)
                except UserError as error:
                    raise UserError(f"data.sources.{name}.{key}: {error}") from None
        if isinstance(self.data.tokenizer, str):
            _check_there("data.tokenizer", self.data.tokenizer)
        self.check_base()
        for file in self.data.instructions:
            if not there(file):
                raise UserError(f"data.instructions: {file} does not exist: check the name.")

    def check_base(self) -> None:
        """Refuse a base that is not there, and running text beyond its window where its file says it, before it is loaded.

        Raises:
            UserError: the base is missing, or the running text of a phase is longer.
        """
        if self.base is None:
            return
        _check_there("base", self.base)
        if self.windowed and self.model.get("window") is None:
            window = window_said(self.base)
            if window is not None:
                check_running(self, window, f"the base {self.base}")

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


def _check_there(key: str, model: str) -> None:
    """
    Raises:
        UserError: there can be no model of that name; names the key.
    """
    try:
        checkpoint(model)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
