"""Refuses configurations of a SharedLLM whose settings can't work together, or not with the base."""

from typing import Any

from ..context.policies.base import get_policy
from ..context.spaces import beginnings
from ..context.stops import KINDS
from ..utils.errors import UserError
from .families import family_of
from .settings import check_strides


def check_possible(config: Any) -> None:
    """
    Args:
        config: a `SharedLLMConfig` whose fields are of the right types.

    Raises:
        UserError: it can't work; names the field, its value and the fix.
    """
    get_policy(config.selection)
    layers = config.text_config.num_hidden_layers
    if not 1 <= config.lower_layers <= layers:
        raise UserError(f"lower_layers={config.lower_layers} must be between 1 and the base's {layers} layers.")
    if not config.injection_map:
        raise UserError("injection_map=[] injects nothing: give at least one [lower, upper] pair, or None.")
    for lower, upper in config.injection_map:
        if config.injection == "deep" and lower != upper:
            raise UserError(
                f"injection_map has [{lower}, {upper}]: with injection='deep' a layer can only read its own keys."
            )
        if not 0 <= lower < config.lower_layers + (config.injection == "deep"):
            raise UserError(
                f"injection_map reads lower layer {lower}, but lower_layers={config.lower_layers}: "
                f"use 0 … {config.lower_layers - 1}."
            )
        if not 0 <= upper < layers:
            raise UserError(f"injection_map feeds upper layer {upper}, but the base has layers 0 … {layers - 1}.")
    uppers = [upper for _, upper in config.injection_map]
    if len(set(uppers)) != len(uppers):
        raise UserError(f"injection_map={config.injection_map} feeds an upper layer twice: give each layer one pair.")
    check_strides(config.strides)
    if config.injection == "deep" and (config.encoding != "chunk" or config.lower_weights != "shared"):
        raise UserError(
            f"encoding={config.encoding!r} with lower_weights={config.lower_weights!r}: injection='deep' continues where the "
            "lower model stopped, so it needs encoding='chunk' and lower_weights='shared'."
        )
    vocabulary = config.text_config.vocab_size
    if any(not 0 <= token < vocabulary for token in config.prefix or ()):
        raise UserError(f"prefix={config.prefix} has an id outside the base's vocabulary of {vocabulary}.")
    if config.injection != "cross" and config.start != "gate":
        raise UserError(f"start={config.start!r} is for injection='cross'; a joint softmax has no weights to start.")
    if config.anchor and config.injection != "joint":
        raise UserError(f"anchor=True is for injection='joint', the model has {config.injection!r}: leave it out.")
    if config.chunk_size < 2:
        raise UserError(f"chunk_size={config.chunk_size} must be at least 2 tokens.")
    if config.overlap < 0 or (config.overlap and config.encoding != "chunk"):
        raise UserError(f"overlap={config.overlap} must be 0, or a number of tokens with encoding='chunk'.")
    if config.closing and (config.encoding != "chunk" or config.overlap):
        raise UserError(
            f"closing with encoding={config.encoding!r} and overlap={config.overlap}: pieces are read by themselves, so it needs "
            "encoding='chunk' and overlap=0."
        )
    for name in KINDS:
        tokens = getattr(config, name) or ()
        if tokens and not config.closing:
            raise UserError(f"{name} without closing: pieces end with a sentence at the least, so give closing too.")
        if any(not 0 <= token < vocabulary for token in tokens):
            raise UserError(f"{name} has an id outside the base's vocabulary of {vocabulary}.")
    if config.bare and not config.closing:
        raise UserError(
            "bare without closing: it says how the pieces begin that end as closing says, so give both or none."
        )
    beginnings(config.bare or "", vocabulary)
    if config.reach < 1:
        raise UserError(f"reach={config.reach} must be at least 1 chunk.")
    if config.window < 1:
        raise UserError(f"window={config.window} must be at least 1 token.")
    heads = config.text_config.num_attention_heads
    for entry in config.selection_heads or []:
        if (
            not isinstance(entry, list | tuple)
            or len(entry) != 3
            or entry[0] not in uppers
            or not 0 <= entry[1] < heads
            or not entry[2] > 0
        ):
            raise UserError(
                f"selection_heads has {entry}: use triples of an injected layer ({', '.join(map(str, uppers))}), a head "
                f"0 … {heads - 1} and a positive weight."
            )
    if config.meaning_layers is not None and (config.injection != "deep" or not 1 <= config.meaning_layers <= layers):
        raise UserError(
            f"meaning_layers={config.meaning_layers} with injection={config.injection!r} must be between 1 and the base's "
            f"{layers} layers, and is for injection='deep'."
        )
    encoder = config.sentence_encoder
    if encoder is not None and (
        config.injection != "deep"
        or set(encoder) != {"fingerprint", "pooling", "question", "text"}
        or encoder["pooling"] not in ("mean", "first")
    ):
        raise UserError(
            f"sentence_encoder={config.sentence_encoder} with injection={config.injection!r}: it is for injection='deep', and is the "
            "`settings` of a SentenceEncoder."
        )
    if not 0 <= config.split_noise < 0.5:
        raise UserError(f"split_noise={config.split_noise} must be in [0, 0.5): it is a share of the node's length.")
    border = family_of(config.text_config).border(config.text_config)
    if config.injection == "joint" and border is not None and config.window > border:
        raise UserError(
            f"window={config.window} is longer than the base's original_max_position_embeddings={border}, beyond which "
            "its rotary frequencies change, the memory's too: make it at most that for injection='joint'."
        )
