"""How near a memory comes to the same tokens as text in the base's window, by what is read alone: chunks of some size with an
overlap, or the selected pieces themselves. The table of docs/real/choices.md, on even ids.

Run: python docs/real/choose_units.py MODEL DATA    # MODEL: of `sharedllm extend`; DATA: the folder of the question sets
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharedllm import SharedLLMForCausalLM
from sharedllm.cli.loading import load
from sharedllm.context.pieces import Pieces
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.memory.context_memory import ContextMemory
from sharedllm.memory.segments import segments_of, take
from sharedllm.prompts import NOTHING, PromptForm, own_words
from sharedllm.scoring.passages import needed_pieces
from sharedllm.utils.text import tokenize

SETTINGS = {"nq": 20, "keys-4": 20}
# Chunk size and overlap; None for the pieces.
UNITS = [(512, 0), (512, 64), (128, 0), (128, 32), None]
NEW_TOKENS = 10


def read_alone(model: SharedLLMForCausalLM, ids: Tensor, pieces: Pieces, unit: tuple[int, int] | None) -> ContextMemory:
    """The memory of some pieces of a text (1, T), of which only those units are read that hold them."""
    slots = pieces.slots()
    if unit is None:
        spans = [(start, start, end) for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)]
    else:
        size, overlap = unit
        spans = [
            (max(0, n * size - overlap), n * size, min(ids.shape[1], (n + 1) * size))
            for n in sorted(set((slots // size).tolist()))
        ]
    segments, chosen, before = [], [], 0
    for begin, first, end in spans:
        (segment,) = segments_of(model.read(ids[:, begin:end], keep_all=True, fingerprint=False))
        segments.append(replace(segment, start=before))
        chosen.append(slots[(slots >= first) & (slots < end)] - begin + before)
        before += end - begin
    every = torch.cat(chosen)
    return take(segments, [every], [torch.ones_like(every)])


def greedy(model: SharedLLMForCausalLM, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """The base's reply (1, k) in its window, and the logarithms of its probabilities (k, V)."""
    output, tokens, logits = model(prompt, use_cache=True, logits_to_keep=1), [], []
    for _ in range(NEW_TOKENS):
        logits.append(output.logits[0, -1].float())
        tokens.append(logits[-1].argmax()[None, None])
        output = model(tokens[-1], past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
    return torch.cat(tokens, 1), torch.stack(logits).log_softmax(-1)


def compared(model: SharedLLMForCausalLM, tokenizer, name: str, count: int, data: Path) -> Iterator[dict]:
    """By unit, for each question: the divergence of the memory's next token from the text's, and whether both reply alike."""
    meter, form, own_closing = Meter(tokenizer), PromptForm.of(tokenizer), model.config.closing
    prefix = torch.tensor([list(model.config.prefix or [])], dtype=torch.long)
    for text in Plan(SETS.find(name), TextSpec(data, 32_768, "even", count, 0), [], [], count, False).texts(meter):
        ids = tokenize(tokenizer, text.text)
        segments = segments_of(model.read(ids, keep_all=True, fingerprint=False))
        for question in text.questions:
            asked, nothing = (form.question(t, after_context=True) for t in (question.question, NOTHING))
            pieces = needed_pieces(model.model, segments, tokenizer, asked, own_words(asked, nothing), 512).pieces
            reply, expected = greedy(model, torch.cat([prefix, ids[:, pieces.slots()], asked], 1))
            found = {}
            # What is read here is one unit each time.
            size, model.config.closing, model.config.chunk_size = model.config.chunk_size, None, 8192
            for unit in UNITS:
                memory = read_alone(model, ids, pieces, unit)
                logits = model(torch.cat([asked, reply], 1), memory=memory, use_cache=False).logits[0]
                given = logits[asked.shape[1] - 1 : -1].float().log_softmax(-1)
                divergence = float((expected.exp() * (expected - given)).sum(-1).mean())
                found[unit] = divergence, bool((given.argmax(-1) == reply[0]).all())
            model.config.closing, model.config.chunk_size = own_closing, size
            yield found


@torch.no_grad()
def main() -> None:
    model, tokenizer = load(sys.argv[1])
    print(
        "| read alone | "
        + " | ".join(f"{name} (n={count}): divergence, alike" for name, count in SETTINGS.items())
        + " |"
    )
    print("|---|" + "--:|" * len(SETTINGS))
    found = {name: list(compared(model, tokenizer, name, count, Path(sys.argv[2]))) for name, count in SETTINGS.items()}
    for unit in UNITS:
        shown = "the selected pieces" if unit is None else f"chunks of {unit[0]}, {unit[1]} before them"
        cells = (
            f"{np.mean([row[unit][0] for row in rows]):.4f}, {100 * np.mean([row[unit][1] for row in rows]):.0f} %"
            for rows in found.values()
        )
        print(f"| {shown} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
