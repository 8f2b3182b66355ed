"""The names of a model's settings, and checks of them. Imports nothing slow, so that a recipe with a wrong name is refused at once."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypedDict

from ..utils.errors import UserError, meant, shown

# Current fields by their old names, for configurations saved earlier.
RENAMED = {"ratios": "strides"}
# What transformers' from_pretrained takes, so that it can be proposed for what is misspelt.
LOADING = (
    "attn_implementation",
    "cache_dir",
    "device_map",
    "dtype",
    "local_files_only",
    "max_memory",
    "revision",
    "token",
)


class Settings(TypedDict, total=False):
    """What `from_base` takes: fields of `SharedLLMConfig`, and token ids in place of the base's."""

    window: int | None
    chunk_size: int
    strides: Sequence[int]
    lower_layers: int
    injection_map: Sequence[Sequence[int]] | None
    injection: Literal["cross", "joint", "deep"]
    prefix: Sequence[int] | None
    reach: int
    anchor: bool
    start: Literal["gate", "zero", "random"]
    encoding: Literal["node", "chunk"]
    overlap: int
    parting: Sequence[int] | None
    closing: Sequence[int] | None
    pausing: Sequence[int] | None
    breaking: Sequence[int] | None
    heading: Sequence[int] | None
    numeric: Sequence[int] | None
    bare: str | None
    lower_weights: Literal["shared", "copy"]
    keep: Literal["last", "first"]
    key_position: Literal["chunk", "offset"]
    score_scaling: Literal["none", "log"]
    selection: str
    selection_heads: Sequence[Sequence[float]] | None
    meaning_layers: int | None
    sentence_encoder: dict[str, str] | None
    split_noise: float
    memory_dtype: Literal["model", "int8"]
    initializer_range: float
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None


def check_settings(names: Iterable[str], prefix: str = "") -> None:
    """Refuse names that are no settings of `SharedLLMForCausalLM.from_base`.

    Args:
        prefix: of the names in messages, such as "model." in a recipe.

    Raises:
        UserError: some are none; names all of them, each with the setting that it resembles.
    """
    known = Settings.__annotations__
    wrong = [
        f"{prefix}{name} is not a setting of a SharedLLM: {meant(str(name), known, 'see SharedLLMConfig for all settings.')}"
        for name in names
        if name not in known and name not in RENAMED
    ]
    if wrong:
        raise UserError(" ".join(wrong))


def check_known(unknown: Mapping[str, Any]) -> None:
    """Refuse what is left of the arguments of `from_pretrained` when transformers and the configuration have taken theirs.

    Raises:
        UserError: something is; names each, with the setting or the argument that it resembles.
    """
    known = [*Settings.__annotations__, *LOADING]
    wrong = []
    for name, value in unknown.items():
        if name in Settings.__annotations__:
            wrong.append(f"{name}={shown(value)} is given beside config: set it there.")
            continue
        fix = f"it is called {RENAMED[name]}." if name in RENAMED else meant(name, known, "leave it out.")
        wrong.append(f"{name}={shown(value)} is no setting of a SharedLLM, and no argument of from_pretrained: {fix}")
    if wrong:
        raise UserError(" ".join(wrong))


def check_saved(saved: Mapping[str, Any]) -> None:
    """Refuse a saved configuration without its base's, and names that nearly are a setting's. Others are transformers' own.

    Raises:
        UserError: `text_config` is missing, or names are misspelt; names all of these.
    """
    if not saved.get("text_config"):
        # transformers would fill in a Llama of 7B parameters.
        raise UserError("text_config is missing, the configuration of the base: take config.json as it was saved.")
    check_settings(
        name
        for name in saved
        if name not in Settings.__annotations__
        and difflib.get_close_matches(name, Settings.__annotations__, cutoff=0.8)
    )


def check_strides(strides: Sequence[int]) -> None:
    """Refuse strides that are impossible for a tree.

    Raises:
        UserError: there are none, one is not positive, or a deeper level is coarser.
    """
    if not isinstance(strides, Sequence) or not strides or any(type(r) is not int or r < 1 for r in strides):
        raise UserError(f"strides={strides} must be one positive stride per tree level, such as [16, 8, 4].")
    if any(coarse < fine for coarse, fine in pairwise(strides)):
        raise UserError(f"strides={strides} must not grow with depth: deeper nodes are finer.")
