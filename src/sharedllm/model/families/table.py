"""The families that can be extended, and those that can't, with reasons."""

from transformers import PreTrainedConfig

from ...utils.errors import UserError
from .around import capped_logits, divided_logits, longrope_border, multiplied, scaled_logits
from .family import Family
from .projections import (
    clipped_keys_values,
    clipped_queries,
    fused_keys_values,
    fused_queries,
    head_normed_keys_values,
    head_normed_queries,
    normed_keys_values,
    normed_queries,
    unweighted_keys_values,
    unweighted_queries,
)
from .turning import doubled, interleaved, neighbours, neighbours_where_sliding, sharpened, weighted, where_used
from .wiring import maybe_parallel_combine, no_norm_input, parallel_combine, wired


def _one_direction(config: PreTrainedConfig) -> str | None:
    if getattr(config, "use_bidirectional_attention", None):
        return "use_bidirectional_attention: its tokens see those after them"
    return None


def _gemma3(config: PreTrainedConfig) -> str | None:
    if config.attn_logit_softcapping is not None:
        return "attn_logit_softcapping is set, which transformers ignores"
    return _one_direction(config)


_LAYERS_OF_GEMMA = {
    "combine": wired("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "logits": capped_logits,
}
_NORMS_AFTER = {
    "attention_norm": None,
    "attention_input": no_norm_input,
    "combine": wired("post_attention_layernorm", None, "post_feedforward_layernorm"),
    "queries": normed_queries,
    "keys_values": normed_keys_values,
}
FAMILIES: dict[str, Family] = {
    "arcee": Family(tested="MLP without a gate"),
    "cohere": Family(
        combine=parallel_combine,
        turn=neighbours,
        logits=scaled_logits,
        tested="attention and MLP in parallel, neighbouring dimensions are rotated together, scaled logits",
    ),
    "cohere2": Family(
        combine=parallel_combine,
        traits=("sliding_window",),
        turn=neighbours_where_sliding,
        logits=scaled_logits,
        tested="as cohere; full layers have no positions",
    ),
    "ernie4_5": Family(turn=interleaved, tested="neighbouring dimensions are rotated together"),
    "gemma": Family(check=_one_direction, tested="scaled embeddings"),
    "gemma2": Family(
        **_LAYERS_OF_GEMMA,
        traits=("attn_logit_softcapping",),
        check=_one_direction,
        tested="scaled embeddings, four norms, capped scores and logits, sliding and full layers; attention eager",
    ),
    "gemma3_text": Family(
        **_LAYERS_OF_GEMMA,
        rotary_by_type=True,
        check=_gemma3,
        tested="scaled embeddings, four norms, normed heads, sliding and full layers with separate rotations",
    ),
    "glm": Family(
        turn=interleaved, tested="neighbouring dimensions are rotated together, half of each head is rotated"
    ),
    "glm4": Family(
        combine=wired("post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        turn=interleaved,
        tested="as glm; four norms",
    ),
    "glm4_moe": Family(tested="half of each head is rotated, dense layers first, then experts"),
    "gpt_oss": Family(
        query_parts=("q_proj", "o_proj", "sinks"),
        turn=doubled,
        balanced=True,
        tested="a sink in every head, sliding and full layers, experts, load-balancing loss; attention eager",
    ),
    "granite": Family(
        combine=wired(multiplier="residual_multiplier"),
        layer_traits=("residual_multiplier",),
        embed=multiplied,
        logits=divided_logits,
        tested="factors of embeddings, residuals, scores and logits",
    ),
    "helium": Family(turn=interleaved, tested="neighbouring dimensions are rotated together"),
    "hunyuan_v1_dense": Family(
        queries=unweighted_queries,
        keys_values=unweighted_keys_values,
        query_parts=("q_proj", "query_layernorm", "o_proj"),
        memory_parts=("k_proj", "key_layernorm", "v_proj"),
        turn=weighted,
        tested="norm after RoPE",
    ),
    "llama": Family(),
    "ministral": Family(tested="sliding and full layers"),
    "ministral3": Family(turn=sharpened, tested="queries far from the beginning are scaled up"),
    "mistral": Family(tested="sliding layers"),
    "mixtral": Family(balanced=True, tested="experts, load-balancing loss"),
    "nemotron": Family(tested="half of each head is rotated, layer norms, MLP without a gate"),
    "olmo": Family(
        queries=clipped_queries, keys_values=clipped_keys_values, tested="norms without weights, clipped projections"
    ),
    "olmo2": Family(**_NORMS_AFTER, tested="norms after attention and MLP, normed projections"),
    "olmo3": Family(
        **_NORMS_AFTER, rotary_by_type=True, tested="as olmo2; sliding and full layers with separate rotations"
    ),
    "phi3": Family(
        queries=fused_queries,
        keys_values=fused_keys_values,
        query_parts=("qkv_proj", "o_proj"),
        query_projections=("qkv_proj",),
        memory_parts=("qkv_proj",),
        border=longrope_border,
        tested="one projection for queries, keys and values, part of each head is rotated, longrope",
    ),
    "phimoe": Family(
        balanced=True, border=longrope_border, tested="layer norms, experts, load-balancing loss, longrope"
    ),
    "qwen2": Family(tested="biases"),
    "qwen2_moe": Family(balanced=True, tested="shared and routed experts, load-balancing loss"),
    "qwen3": Family(tested="normed heads"),
    "qwen3_moe": Family(balanced=True, tested="normed heads, experts, load-balancing loss"),
    "seed_oss": Family(tested="biases"),
    "smollm3": Family(traits=("use_rope",), turn=where_used, tested="some layers have no positions"),
    "stablelm": Family(
        combine=maybe_parallel_combine,
        layer_traits=("use_parallel_residual",),
        queries=head_normed_queries,
        keys_values=head_normed_keys_values,
        query_parts=("q_proj", "q_layernorm", "o_proj"),
        memory_parts=("k_proj", "k_layernorm", "v_proj"),
        tested="part of each head is rotated, layer norms, a norm for each head, attention and MLP in parallel",
    ),
    "starcoder2": Family(tested="layer norms, biases, MLP without a gate"),
}

_REASONS = {
    "some of its layers are recurrent: they keep one state, not keys and values of each token": (
        "bailing_hybrid bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe mamba mamba2 minimax "
        "nemotron_h olmo_hybrid qwen3_5 qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zamba zamba2"
    ),
    "its attention is latent (MLA): what it keeps of a token is not a key and a value": (
        "deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 mistral4"
    ),
    "its layers share keys and values, or take separate embeddings": "gemma3n gemma3n_text gemma4 gemma4_text",
    "its attention is cut into chunks, and some layers scale by position": "llama4 llama4_text",
    "it reads more than text: extend its text model, a causal language model": (
        "gemma3 mistral3 mllama qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe"
    ),
}
REFUSED: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def check_family(name: str) -> None:
    """Refuse a base by its `model_type`.

    Raises:
        UserError: the family is not supported; says why, or lists the supported ones.
    """
    if name == "sharedllm":
        raise UserError("the base is a SharedLLM already: use it as it is, or name the base that it was made from.")
    if name in REFUSED:
        raise UserError(f"model_type={name!r} can't be extended: {REFUSED[name]}.")
    if name not in FAMILIES:
        raise UserError(f"model_type={name!r} is not supported: use one of {', '.join(sorted(FAMILIES))}.")


def family_of(config: PreTrainedConfig) -> Family:
    """The table entry of a base configuration.

    Raises:
        UserError: as `check_family`, or this configuration is not supported.
    """
    name = config.model_type
    check_family(name)
    if (reason := FAMILIES[name].check(config)) is not None:
        raise UserError(f"this {name} can't be extended: {reason}.")
    return FAMILIES[name]


def check_extendable(config: PreTrainedConfig) -> PreTrainedConfig:
    """Refuse a base by its configuration, before its weights are loaded.

    Returns:
        The configuration of what is extended: of some models that read more than text, transformers loads the text model.

    Raises:
        UserError: as `family_of`.
    """
    text = config.get_text_config()
    # A model that was extended also holds its base's configuration, but is loaded as what it is.
    whole = config.model_type in REFUSED or config.model_type.startswith("sharedllm") or text.model_type not in FAMILIES
    extended = config if whole else text
    family_of(extended)
    return extended


def plain_family_of(config: PreTrainedConfig, system: str) -> Family:
    """`family_of` for a system that does not support the special needs of some families.

    Raises:
        UserError: the base belongs to such a family.
    """
    family = family_of(config)
    if not family.plain:
        raise UserError(
            f"{system} can't be built on model_type={config.model_type!r}, whose layers differ: use another base."
        )
    return family


def sliding_window(config: PreTrainedConfig, layer_index: int) -> int | None:
    """How many tokens a layer's self-attention sees, the token itself included; None for all."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and layer_types[layer_index] != "sliding_attention":
        return None
    # Some configurations say 0 for no window.
    return getattr(config, "sliding_window", None) or None
