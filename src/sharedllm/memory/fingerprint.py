"""What identifies weights and settings: a memory is used by the model that made it."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

# Settings of a SharedLLM that decide what a memory holds, by the names that they are hashed under: those of the first
# version, so that a model keeps its fingerprint when a field gets another name.
_SETTINGS = {"ratios": "strides"} | {
    name: name for name in ("chunk_size", "lower_layers", "injection_map", "encoding", "keep", "overlap")
}

# Fields of the base's configuration that change keys and values without changing a weight.
_BASE_SETTINGS = (
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
# The same of some families only.
_FAMILY_SETTINGS = (
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
)


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes as they lie in memory, row by row."""
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def fingerprint_tensors(named: Iterable[tuple[str, Tensor]], settings: dict) -> str:
    """32 hex digits that change with any name, dtype, shape or byte of the tensors, and with any setting."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()[:32]


class Fingerprint:
    """Of what reads a context: lower weights, tree, encoding and the base's settings. Computed anew only after a change."""

    def __init__(self):
        self._known: tuple[object, str] | None = None

    def of(self, config: PreTrainedConfig, base: PreTrainedConfig, modules: Mapping[str, nn.Module]) -> str:
        """
        Args:
            config, base: of the SharedLLM, and of its base. modules: whose weights count, without what injects.
        """
        tensors = [
            (f"{prefix}.{name}", tensor)
            for prefix, module in modules.items()
            for name, tensor in sorted(module.state_dict(keep_vars=True).items())
            if "cross_attention" not in name
        ]
        settings = {hashed: getattr(config, name) for hashed, name in _SETTINGS.items()}
        held = base.to_dict()
        settings["base"] = {name: held.get(name) for name in _BASE_SETTINGS}
        settings["base"] |= {name: held[name] for name in _FAMILY_SETTINGS if name in held}
        state = (json.dumps(settings, sort_keys=True), [(id(t), t.data_ptr(), t._version) for _, t in tensors])
        if self._known is None or self._known[0] != state:
            self._known = state, fingerprint_tensors(tensors, settings)
        return self._known[1]
