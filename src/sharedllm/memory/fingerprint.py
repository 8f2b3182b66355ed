"""Fingerprints of weights and settings: only the model that made a memory may use it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..context import pieces

# Every setting is in one of the tables below. A test goes through all fields of `SharedLLMConfig` and of each family's
# configuration, so that a new one can't be forgotten.

# Settings of a SharedLLM that decide what a memory holds, by the names under which they are hashed. These are the names
# of the first version, so that a model keeps its fingerprint when a field is renamed.
DECIDING = {"ratios": "strides"} | {
    name: name for name in ("chunk_size", "lower_layers", "injection_map", "encoding", "keep", "overlap")
}
# Settings that were added later: hashed only if they are set, so that models without them keep their fingerprint.
DECIDING_IF_SET = ("prefix", "parting", "closing", "pausing", "breaking", "heading", "numeric", "bare")
# Where chunks are read in pieces, the window decides by the size of these.
CUTTING = ("window",)
# Settings that don't: how a memory is attended to, how the model is trained, and options of a single read.
INDIFFERENT = frozenset(
    "injection reach anchor start lower_weights key_position score_scaling selection selection_heads meaning_layers sentence_encoder "
    "split_noise memory_dtype initializer_range tie_word_embeddings text_config".split()
)

# Fields of the base's configuration that change keys and values without changing a weight, and fields of single families.
BASE_DECIDING = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "layer_types",
)
FAMILY_DECIDING = (
    "norm_epsilon",
    "hidden_activation",
    "num_experts_per_tok",
    "norm_topk_prob",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "embedding_multiplier",
    "layer_norm_eps",
    "no_rope_layers",
    "norm_eps",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "routed_scaling_factor",
    "swiglu_alpha",
    "swiglu_limit",
    "n_group",
    "topk_group",
    "use_parallel_residual",
)
# Fields that change nothing, or nothing that the weights' shapes, `layer_types` or `rope_parameters` don't show too.
BASE_INDIFFERENT = frozenset(
    # shapes and names of weights
    "hidden_size intermediate_size num_hidden_layers vocab_size moe_intermediate_size shared_expert_intermediate_size "
    "num_experts num_local_experts decoder_sparse_step mlp_only_layers attention_bias attention_out_bias mlp_bias "
    "qkv_bias use_bias use_qkv_bias lm_head_bias tie_word_embeddings pretraining_tp use_qk_norm qk_layernorm "
    "n_routed_experts n_shared_experts first_k_dense_replace num_nextn_predict_layers "
    # implied by other fields
    "max_window_layers use_sliding_window _sliding_window_pattern no_rope_layer_interval max_position_embeddings original_max_position_embeddings "
    # training, output and tokens; texts are always read causally
    "attention_dropout embd_pdrop resid_pdrop residual_dropout embedding_dropout initializer_range router_aux_loss_coef "
    "router_jitter_noise output_router_logits use_cache bos_token_id eos_token_id pad_token_id "
    "use_bidirectional_attention hidden_dropout input_jitter_noise eod_token_id "
    # after the last layer
    "logit_scale logits_scaling final_logit_softcapping".split()
)


# How many numbers of each tensor are looked at before a known fingerprint is used.
_GLANCES = 16


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in row-major order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def fingerprint_tensors(named: Iterable[tuple[str, Tensor]], settings: dict) -> str:
    """32 hex digits that change with any name, dtype, shape or byte of the tensors, and with any setting."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()[:32]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a vocabulary, as memories on disk name it."""
    return fingerprint_tensors((), tokenizer.get_vocab())


# What a configuration says of its file and of the library, not of the model.
_OF_THE_FILE = frozenset(("transformers_version", "architectures", "dtype", "how_to_load"))


def model_identity(model: PreTrainedModel) -> dict[str, str]:
    """What tells a model from every other, for results that depend on it.

    sha256: of its weights, with their dtype. settings: of its configuration, and of how it generates; what is not set is left out, so
    that a new field changes nothing.
    """
    settings = [_deciding(model.config.to_diff_dict())]
    if model.generation_config is not None:
        settings.append(_deciding(model.generation_config.to_diff_dict()))
    weights = fingerprint_tensors(sorted(model.state_dict().items()), {})
    return {"sha256": weights, "settings": fingerprint_tensors((), {"configurations": settings})}


def same_model(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two identities are of one model. Results from before there were `settings` have the weights alone."""
    return all(one[key] == other[key] for key in ("sha256", "settings") if key in one and key in other)


def _deciding(settings: Any) -> Any:
    """Settings without those of the file, at any depth, as JSON."""
    if isinstance(settings, Mapping):
        found = {str(name): _deciding(value) for name, value in settings.items() if name not in _OF_THE_FILE}
        return {name: value for name, value in found.items() if value is not None and not name.startswith("_")}
    if isinstance(settings, list | tuple):
        return [_deciding(value) for value in settings]
    return settings if isinstance(settings, str | int | float | bool | None) else str(settings)


def _glance(tensor: Tensor) -> str:
    """A sum of some numbers of a tensor, as text, in which what is no number equals itself. It shows most changes through
    `tensor.data`, which give the tensor no new version."""
    return str(tensor.detach().reshape(-1)[:: tensor.numel() // _GLANCES + 1].float().sum().item())


class Fingerprint:
    """Fingerprint of everything that reads a context: lower weights, tree, encoding and the base's settings. Recomputed
    only after a change."""

    def __init__(self):
        self._known: tuple[object, str] | None = None

    def of(
        self,
        config: PreTrainedConfig,
        base: PreTrainedConfig,
        modules: Mapping[str, nn.Module],
        instead: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> str:
        """
        Args:
            config, base: configurations of the SharedLLM and of its base. modules: modules whose weights are hashed,
                without the injections.
            instead: values of some settings that replace the configuration's.
            dtype: of the weights, as if they were in it; default: as they are. That is not kept.
        """
        tensors = [
            (f"{prefix}.{name}", tensor)
            for prefix, module in modules.items()
            for name, tensor in sorted(module.state_dict(keep_vars=True).items())
            if not name.startswith("injection.")
        ]
        settings = {hashed: (instead or {}).get(name, getattr(config, name)) for hashed, name in DECIDING.items()}
        settings |= {name: list(value) for name in DECIDING_IF_SET if (value := getattr(config, name))}
        if config.closing:  # models of the first rule and of the usual size keep their fingerprint
            cut = {"pieces": (pieces.RULE, 1), "piece_size": (pieces.piece_size(config.window), pieces.LEAST)}
            settings |= {name: value for name, (value, usual) in cut.items() if value != usual}
        # As `base.to_dict()`, which copies everything and takes a fifth of the time.
        held = vars(base) | {"model_type": base.model_type}
        settings["base"] = {name: held.get(name) for name in BASE_DECIDING}
        settings["base"] |= {name: held[name] for name in FAMILY_DECIDING if name in held}
        if dtype is not None:
            cast = ((name, tensor.to(dtype) if tensor.is_floating_point() else tensor) for name, tensor in tensors)
            return fingerprint_tensors(cast, settings)
        state = (
            json.dumps(settings, sort_keys=True),
            [(id(t), t.data_ptr(), t._version, _glance(t)) for _, t in tensors],
        )
        if self._known is None or self._known[0] != state:
            self._known = state, fingerprint_tensors(tensors, settings)
        return self._known[1]
