"""SharedLLMConfig: the base model's own configuration, and how the context is read and injected."""

import os
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict, type_validator, validated_field
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from ..context.policies import POLICIES
from ..context.stops import KINDS, Marks
from ..utils.checkpoints import check_dtype, not_json
from ..utils.errors import UserError, of_wrong_type
from .base_config import check_own, keep_attention, of_base, take_over
from .possible import check_possible
from .settings import RENAMED, Settings, check_saved

# For a process that has not imported the package, which transformers tells that it does not know the architecture.
HOW_TO_LOAD = "install sharedllm from its sources, and `import sharedllm` before AutoModelForCausalLM.from_pretrained"


def _filled_in(name: str, given: Any) -> Any:
    """A field that is filled in while the configuration is made, where nobody gave it.

    Its annotation says what it is from then on. It is in quotes because huggingface_hub would check it against what was
    given; that is checked here.

    Args:
        given: type of what may be given; None may be, too.
    """

    def check(value: Any) -> None:
        type_validator(name, value, given | None)

    return validated_field(check, default=None)


@strict
class SharedLLMConfig(PreTrainedConfig):
    """Configuration of a SharedLLM.

    Args:
        text_config: configuration of the base language model (an object or a dict with `model_type`).
        window: W, the most tokens of running text; longer input goes to the context. Default: the base's
            `max_position_embeddings`.
        chunk_size: C, tokens per chunk; each chunk has one context tree.
        strides: stride of the tokens kept at tree levels 1 … height, coarse to fine (paper: 16, 8, 4).
        lower_layers: M, how many bottom layers read the context (paper: 4 for language modelling).
        injection_map: pairs (lower layer, upper layer), counted from 0: which lower layer's states each upper layer
            reads. None is the paper's i → i for all i < M. For a pair of different layers the upper layer gets its own
            key and value projections.
        injection: "cross", separate cross-attention over the memory with a gate that starts at 0 (after the paper);
            "joint", one softmax over memory and running text in the base's own self-attention, without new weights;
            "deep", a joint softmax in all layers over selected tokens, which have been read together through layer M to
            the top: for that the memory keeps the residual stream entering layer M (see `model.deepen`). Its injection
            map may only have pairs i → i, i ≤ M: the keys of these layers are kept too, for scoring and for the bottom
            layers.
        prefix: token ids put before every chunk, and with injection="deep" before the selected tokens: for instance the
            beginning of the chat template. None for no prefix.
        reach: with a joint softmax chunk i of n is at position i − n, and all chunks before the last `reach` share
            position −reach, so that attention sees no distance that it was not trained on.
        anchor: with injection="joint" the first token of the running text sees no memory. Most bases rest much attention on
            the first token, and know it only by its seeing nothing before it: if it sees a memory, all of their layers
            lose that rest (docs/training/real.md).
        start: initial weights of the cross-attention: "gate", a copy of self-attention with a gate at 0; "zero", a copy
            with an output projection of 0; "random", random query and output projections. Only "gate" has a gate.
        encoding: "node", each preserved node is read alone (paper); "chunk", the chunk is read once and its nodes only
            decide which tokens are kept.
        overlap: tokens before a chunk that are read with it but not kept again, so that text across a border is
            understood; for encoding "chunk".
        closing: ids of the tokens that end a sentence or a line: chunks are read in the pieces that a question selects (`context.pieces`),
            each by itself, so that what is selected is read as if it stood alone. None: chunks are read whole. For encoding
            "chunk", without an overlap.
        parting, pausing: further tokens with which pieces end. A piece ends with one of `parting`, which end a paragraph or a
            record, if there is one in time, else of `closing`, else of `pausing`, which end a clause or an item of a list, else
            where it is longest.
        breaking: ids of the tokens that end a line, but no sentence. A short line that ends with one, between one of `parting` and a
            much longer line, is a heading: a piece ends before it.
        heading: ids of the tokens that begin a heading after one of `parting`.
        numeric: ids of the tokens that numbers are written with, digits and the full stop: no piece ends with a full stop right before
            a digit.
        bare: pairs "ID:ID …" of tokens that begin with a space, and of the same without it: with `closing` a piece is read as if it
            began with the latter, as a text begins that is shown to a model (`context.spaces`).
        lower_weights: "shared", the lower model is the upper model's own layers; "copy", it has its own parameters.
        keep: the "last" token of each stride, which has seen the others, or the "first", as in the authors' code.
        key_position: "chunk", all keys of chunk i are at position i (paper); "offset", a key is at i plus its offset in
            the chunk, as if it had been rotated before it was kept.
        score_scaling: "log" multiplies scores over S kept tokens by log S / log W where that is above 1, so that
            attention over long contexts stays equally sharp; "none" (paper).
        selection: name of the selection policy, which decides which parts stay fine: "right" or "cosine".
        selection_heads: triples (upper layer, head, weight): heads whose attention decides how a budget is spent, found
            by `sharedllm calibrate`. None: all heads of all injected layers, equally weighted.
        meaning_layers: with injection="deep" how many layers read sentences to compare their meaning with that of a question
            whose words the text hardly has, found by `sharedllm extend`. None: meaning is never compared.
        sentence_encoder: with injection="deep" the `settings` of a `scoring.encoder.SentenceEncoder` in the model's folder, which
            then compares meanings. None: the model has none.
        memory_dtype: format of keys and values during generation: "model", the weights' dtype, or "int8", rounded to 8
            bits, half the size of 16 (see `memory.int8`); for memories that are not limited by a budget.
        split_noise: σ of the split noise during training, as a share of the node's length (paper: 0.2; 0 is off).
    """

    model_type = "sharedllm"
    # A bare configuration has a Llama of transformers' own default size; what is saved is always whole.
    has_no_defaults_at_init = True
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    text_config: "PreTrainedConfig" = _filled_in("text_config", PreTrainedConfig | dict[str, Any])
    window: "int" = _filled_in("window", int)
    chunk_size: int = 1024
    strides: list[int] | tuple[int, ...] = (16, 8, 4)
    lower_layers: int = 4
    injection_map: "list[list[int]]" = _filled_in("injection_map", list[Any] | tuple[Any, ...])
    injection: Literal["cross", "joint", "deep"] = "cross"
    prefix: list[int] | tuple[int, ...] | None = None
    reach: int = 32
    anchor: bool = False
    start: Literal["gate", "zero", "random"] = "gate"
    encoding: Literal["node", "chunk"] = "node"
    overlap: int = 0
    parting: list[int] | tuple[int, ...] | None = None
    closing: list[int] | tuple[int, ...] | None = None
    pausing: list[int] | tuple[int, ...] | None = None
    breaking: list[int] | tuple[int, ...] | None = None
    heading: list[int] | tuple[int, ...] | None = None
    numeric: list[int] | tuple[int, ...] | None = None
    bare: str | None = None
    lower_weights: Literal["shared", "copy"] = "shared"
    keep: Literal["last", "first"] = "last"
    key_position: Literal["chunk", "offset"] = "chunk"
    score_scaling: Literal["none", "log"] = "none"
    selection: str = "right"
    selection_heads: list[Any] | tuple[Any, ...] | None = None
    meaning_layers: int | None = None
    sentence_encoder: dict[str, str] | None = None
    split_noise: float | int = 0.2
    memory_dtype: Literal["model", "int8"] = "model"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        attention = take_over(self, kwargs)
        for before, name in RENAMED.items():
            if before in kwargs:
                setattr(self, name, kwargs.pop(before))
        if self.injection_map is None:
            self.injection_map = [[i, i] for i in range(self.lower_layers)]
        try:
            pairs = [[int(i), int(j)] for i, j in self.injection_map]
            whole = pairs == [list(pair) for pair in self.injection_map]
        except (TypeError, ValueError):
            whole, pairs = False, []
        if not whole:
            raise UserError(
                f"injection_map={self.injection_map} must be pairs of layer numbers, such as [[0, 0], [1, 1], [1, 3]]."
            )
        self.injection_map = sorted(pairs, key=lambda pair: pair[1])
        self.strides = list(self.strides)
        self.selection = POLICIES.aliases.get(self.selection, self.selection)
        kwargs.pop("how_to_load", None)
        super().__post_init__(**kwargs)
        keep_attention(self, attention)
        check_possible(self)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers.

        Raises:
            UserError: the config.json is not JSON.
        """
        try:
            return super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            if said := not_json(error):
                raise UserError(said) from None
            raise

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A configuration from a config.json. kwargs: settings in place of the saved ones, and as in transformers.

        Raises:
            UserError: it is that of another model, or a field is of a wrong type, or impossible; or as `check_saved` and
                `check_dtype`.
        """
        check_own(config_dict, cls.model_type)
        check_saved(config_dict)
        # AutoModelForCausalLM passes on its dtype, before the model's class has it.
        for name in ("torch_dtype", "dtype"):
            check_dtype(kwargs.get(name, config_dict.get(name)))
        # transformers would set them when everything is checked. Whether weights are tied is the base's matter there.
        given = {
            name: kwargs.pop(name)
            for name in [*kwargs]
            if name in Settings.__annotations__ and name != "tie_word_embeddings"
        }
        try:
            return super().from_dict(config_dict | given, **kwargs)
        except StrictDataclassError as error:
            raise of_wrong_type(error) from None

    # Of the base, where code that knows no nested configuration looks for them.
    vocab_size = of_base("vocab_size")
    hidden_size = of_base("hidden_size")
    intermediate_size = of_base("intermediate_size")
    num_hidden_layers = of_base("num_hidden_layers")
    num_attention_heads = of_base("num_attention_heads")
    num_key_value_heads = of_base("num_key_value_heads")
    max_position_embeddings = of_base("max_position_embeddings")

    def to_dict(self) -> dict[str, Any]:
        """All fields, and for who finds the file how to load the model."""
        return super().to_dict() | {"how_to_load": HOW_TO_LOAD}

    @property
    def depth(self) -> int:
        """How many layers run over a context: the states entering layers 0 … depth are then known."""
        return self.lower_layers if self.injection == "deep" else self.lower_layers - 1

    @property
    def marks(self) -> Marks | None:
        """The tokens at which the pieces end that are read by themselves; None where chunks are read whole."""
        if not self.closing:
            return None
        return Marks(*(tuple(getattr(self, kind) or ()) for kind in KINDS))

    @property
    def height(self) -> int:
        """Levels of the context tree below its root."""
        return len(self.strides)


AutoConfig.register("sharedllm", SharedLLMConfig, exist_ok=True)
