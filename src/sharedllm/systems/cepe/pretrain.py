"""Masked-language-model training of CEPE's encoder, before it is combined with a decoder.

    python -m sharedllm.systems.cepe.pretrain --base base --tokens build/tokens-tiny/books --output build/encoder

As in the paper, 30 % of the tokens of 512-token samples are masked, all by the mask token.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, ModernBertConfig, ModernBertForMaskedLM

from ...data.shards import TokenStore
from ...data.spans import Spans
from ...utils.errors import UserError
from ...utils.hardware import fast_bf16
from ...utils.model_names import checkpoint
from ...utils.scratch import whole_folder
from .config import encoder_config

MASKED = 0.3
SAMPLE = 512


def mask_tokens(ids: Tensor, mask_token: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids (B, L) with masked places, and labels (B, L), −100 where nothing is masked."""
    masked = torch.rand(ids.shape, generator=generator) < MASKED
    return ids.masked_fill(masked, mask_token), ids.masked_fill(~masked, -100)


def pretrain(
    config: ModernBertConfig,
    stores: Sequence[TokenStore],
    output: Path,
    *,
    steps: int,
    batch: int = 16,
    rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> list[float]:
    """Train a new encoder and write it to a folder, whole or not at all; returns the loss of each step.

    Args:
        config: of the encoder; its last two tokens are mask and padding. stores: used in turn.
        batch: samples per step. rate: peak learning rate, reached after a tenth of the steps; then it falls to 0.

    Raises:
        UserError: the output already exists, or tokens are not of the encoder's vocabulary.
    """
    if output.exists():
        raise UserError(f"{output} already exists: name another output folder.")
    for store in stores:
        if store.vocab_size != config.vocab_size - 2:
            raise UserError(
                f"{store.folder} has a vocabulary of {store.vocab_size:,} tokens, the base of {config.vocab_size - 2}: "
                "tokenise with the base's tokenizer."
            )
    torch.manual_seed(seed)
    model = ModernBertForMaskedLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    bf16 = model.device.type == "cuda" or fast_bf16()
    spans, generator, losses = [Spans(store, SAMPLE, seed) for store in stores], torch.Generator(), []
    for step in range(steps):
        generator.manual_seed(seed * 1_000_003 + step)
        numbers = range(step * batch, (step + 1) * batch)
        rows = [spans[n % len(spans)][n // len(spans)] for n in numbers]
        ids, labels = mask_tokens(
            torch.stack([torch.as_tensor(row) for row in rows]).long(), config.vocab_size - 2, generator
        )
        ids, labels = ids.to(device), labels.to(device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss = model(ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 20 == 0 or step + 1 == steps:
            say(f"step {step}  loss {losses[-1]:.3f}")
    with whole_folder(output) as temporary:
        model.save_pretrained(temporary)
    return losses


def command(
    tokens: Annotated[list[Path], typer.Option(help="A token folder made by training; repeatable.")],
    output: Annotated[Path, typer.Option(help="Folder for the encoder.")],
    base: Annotated[str, typer.Option(help="The decoder to combine it with: folder, hub id, or `base`.")] = "base",
    steps: Annotated[int, typer.Option(min=1, help="Steps of --batch samples of 512 tokens.")] = 200,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of weights, samples and masks.")] = 0,
    device: Annotated[str | None, typer.Option(help="Default: cuda if available.")] = None,
) -> None:
    """Train CEPE's encoder to predict masked tokens."""
    decoder = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint(base)))
    config = encoder_config(decoder.config, decoder.num_parameters())
    settings = {"steps": steps, "batch": batch, "rate": rate, "seed": seed}
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pretrain(config, [TokenStore(t) for t in tokens], output, **settings, device=device, say=print)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app(standalone_mode=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
