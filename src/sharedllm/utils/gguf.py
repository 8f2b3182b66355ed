"""Checkpoints in one .gguf file, the format of llama.cpp: transformers reads them into ordinary tensors, and quantised
weights are dequantised."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_gguf(path: Path, dtype: torch.dtype | str | None = None, **options: Any) -> PreTrainedModel:
    """Load the causal language model in a .gguf file.

    Args:
        dtype: of its weights; None or "auto": bfloat16.
        options: as for `AutoModelForCausalLM.from_pretrained`.
    """
    wanted = torch.bfloat16 if dtype in (None, "auto") else dtype
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=wanted, quantization_config=GgufConfig(dequantize=True), **options
    )
    # The model from transformers is marked as quantised and can't be saved, so put its weights into one that is not.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    config = type(loaded.config)(**settings)
    attention = loaded.config._attn_implementation
    model = type(loaded)._from_config(config, dtype=loaded.dtype, attn_implementation=attention)
    nn.Module.to(model, loaded.device)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model.eval()


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a .gguf file."""
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
