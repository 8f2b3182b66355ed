"""Shared tiny random models and ragged batches. Nothing here is trained or downloaded."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sharedllm import SharedLLMForCausalLM
from sharedllm.model.targets import IGNORE
from sharedllm.scoring.words import WordIndex

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
VOCAB = 101
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 64}
# Families for which transformers has no SDPA.
EAGER = ("gemma2", "gpt_oss")
SPECIAL = {
    "cohere": {"logit_scale": 0.3, "use_qk_norm": True},
    "cohere2": MIXED | {"logit_scale": 0.3},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": MIXED | {"query_pre_attn_scalar": 5, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    "gemma3_text": MIXED
    | {
        "query_pre_attn_scalar": 5,
        "final_logit_softcapping": 4.0,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
        },
    },
    "glm4_moe": EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "use_qk_norm": True},
    "gpt_oss": EXPERTS
    | MIXED
    | {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.5,
    },
    "ministral": {"sliding_window": 64},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.3,
        }
    },
    "mixtral": EXPERTS,
    "olmo": {"clip_qkv": 0.7},
    "olmo3": MIXED,
    "phimoe": EXPERTS | {"lm_head_bias": True},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 1},
    "qwen3_moe": EXPERTS | {"decoder_sparse_step": 1},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True, "use_parallel_residual": True},
}


def tiny_base(
    family: str, seed: int = 0, attn_implementation: str | None = None, dtype: torch.dtype = torch.float32, **overrides
) -> PreTrainedModel:
    """A random causal language model of a family, in eval mode.

    Weights have a wide distribution, and biases and norms differ from 0 and 1, so that attention is far from uniform
    and a forgotten bias or norm shows. `overrides` are fields of the family's configuration.
    """
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "llama":
        del settings["sliding_window"]
    config = AutoConfig.for_model(family, **settings | SPECIAL.get(family, {}) | overrides)
    attn_implementation = attn_implementation or ("eager" if family in EAGER else "sdpa")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)
        perturb([p for p in model.parameters() if p.ndim == 1], 0.2)
    return model.to(dtype).eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 tokens, one per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def tiny_shared(family: str, seed: int = 0, base: PreTrainedModel | None = None, **overrides) -> SharedLLMForCausalLM:
    """A random SharedLLM in eval mode: 16-token chunks, three tree levels, three lower layers, a window of 32.

    Gates are open, and all weights that start as copies are changed, so that reading the wrong one of two equal weights
    shows. `overrides` are fields of SharedLLMConfig; `base` defaults to `tiny_base(family, seed)`.
    """
    base = tiny_base(family, seed) if base is None else base
    settings = {"window": 32, "chunk_size": 16, "strides": [4, 2, 1], "lower_layers": 3} | overrides
    model = SharedLLMForCausalLM.from_base(base, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        new = {n: p for n, p in model.named_parameters() if ".injection." in n or "lower_layers" in n}
        perturb([p for n, p in new.items() if not n.endswith(".gate")], 0.1)
        for name, parameter in new.items():
            if name.endswith(".gate"):
                sign = 1 if torch.rand(()) < 0.5 else -1
                parameter.data = sign * torch.empty_like(parameter).uniform_(0.5, 1.5)
    return model.eval()


def perturb(parameters: list[Tensor], scale: float) -> None:
    """Add normal noise of standard deviation `scale`."""
    with torch.no_grad():
        for parameter in parameters:
            parameter += scale * torch.randn_like(parameter)


def random_texts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Texts of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def pad(texts: list[list[int]], side: str = "left", fill: int = 7) -> tuple[Tensor, Tensor]:
    """Ids (B, T) and mask (B, T). Padding is a token like any other, so that reading it shows."""
    width = max((len(text) for text in texts), default=0)
    ids = torch.full((len(texts), width), fill, dtype=torch.long)
    mask = torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        columns = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[row, columns] = torch.tensor(text, dtype=torch.long)
        mask[row, columns] = 1
    return ids, mask


def padded_rows(contexts: tuple[int, ...] = (30, 0, 17, 25)) -> dict[str, torch.Tensor]:
    """A batch for `RowLosses`: padded rows, one of them with few labels, one with none."""
    running, mask = pad(random_texts([13, 20, 7, 16]))
    labels = running.masked_fill(mask == 0, IGNORE)
    labels[1, :-3] = IGNORE
    labels[2] = IGNORE
    context, context_mask = pad(random_texts(list(contexts), seed=1), "right")
    return {
        "running": running,
        "running_mask": mask.bool(),
        "labels": labels,
        "context": context,
        "context_mask": context_mask.bool(),
    }


def coverage(index: WordIndex, question: str) -> float:
    """How much of a question the best piece of a `WordIndex` contains."""
    covered = index.covered(question)
    assert covered is not None
    return float(covered.max())
