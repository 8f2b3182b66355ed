"""Extend the tiny base with SharedLLM on samples of twice its window: 512 tokens of context, 512 of running text.

Each row is one of: text with its own context; text without any context (so that the model stays good alone); needles in
the context with questions in the running text; a span of the context that comes again. Part of the rows see the contexts
of other rows too, before or behind their own, so that the model learns to find what helps among much that doesn't.

Run: python runs/tiny/train_extension.py --data build/tiny --base build/tiny/base --out build/tiny/extended --steps 650
"""

import argparse
import json
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from common import IGNORE, Corpus, Log, MasterWeights, RowMaker, stack, trapezoid
from sharedllm import ContextMemory, SharedLLMForCausalLM

WINDOW = 512
ROWS_PER_MICRO_BATCH = 8
# (share of the steps, ratios, share of text rows, of needle rows, of copy rows): recall first at a fine grain, or it
# does not come at all; then coarser, and more text.
CURRICULUM = [
    (0.12, [2, 2, 1], 0.4, 0.35, 0.25),
    (0.18, [4, 4, 2], 0.6, 0.25, 0.15),
    (0.70, None, 0.8, 0.13, 0.07),
]
KINDS = ["text", "needles", "copy"]
WEIGHTS = {"text": 1.0, "alone": 1.0, "needles": 1.0, "copy": 0.5}
# Share of the micro-batches of text without any context.
ALONE = 0.12
# How many other rows' contexts a micro-batch sees beside each row's own, and how often.
OTHERS = {0: 0.35, 1: 0.25, 3: 0.25, 7: 0.11, 14: 0.04}
SETTINGS = {
    "chunk_size": 128,
    "ratios": [8, 4, 2],
    "lower_layers": 4,
    "injection_map": [[0, 0], [1, 1], [2, 2], [3, 3], [3, 4], [3, 5]],
    "encoding": "chunk",
    "lower_weights": "shared",
    "split_noise": 0.2,
}


def with_others(own: ContextMemory, count: int, rng: random.Random, own_last: float = 0.6) -> ContextMemory:
    """Each text's memory among those of `count` other texts of the batch, its own last or at a random place."""
    if count == 0:
        return own
    batch = len(own)
    place = count if rng.random() < own_last else rng.randrange(count + 1)
    shifts = rng.choices(range(1, batch), k=count)
    shifts.insert(place, 0)
    parts = [own.index_select([(row + shift) % batch for row in range(batch)]) for shift in shifts]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.append(part)
    return joined


def row_losses(model: SharedLLMForCausalLM, ids: Tensor, labels: Tensor, memory: ContextMemory | None) -> Tensor:
    """(B,) summed loss of each row."""
    logits = model(ids, memory=memory, use_cache=False).logits[:, :-1]
    losses = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view(len(ids), -1).sum(1)


@torch.no_grad()
def validate(model: SharedLLMForCausalLM, corpus: Corpus, checks: RowMaker, rows: int = 32) -> dict[str, float]:
    """Loss of the last half window of running text with its own, another and no context; recall through the memory."""
    model.eval()
    result = {}
    rng = random.Random(1)
    ids = stack([(corpus.span(rng, 2 * WINDOW),) * 2 for _ in range(rows)])[0]
    memory = model.read(ids[:, :WINDOW])
    labels = ids[:, WINDOW:].clone()
    labels[:, : WINDOW // 2] = IGNORE
    other = memory.index_select([(i + 1) % rows for i in range(rows)])
    far = with_others(memory, 7, random.Random(0), own_last=1.0)
    for name, context in (("own", memory), ("other", other), ("own_of_8", far), ("none", None)):
        result[name] = float(row_losses(model, ids[:, WINDOW:], labels, context).mean()) / (WINDOW // 2)
    for kind in ("needles", "copy"):
        checks.rng = random.Random(2)
        ids, labels = stack([getattr(checks, kind)(2 * WINDOW, WINDOW) for _ in range(16)])
        logits = model(ids[:, WINDOW:], memory=model.read(ids[:, :WINDOW]), use_cache=False).logits
        right = logits[:, :-1].argmax(-1) == labels[:, WINDOW + 1 :]
        result[kind] = float(right[labels[:, WINDOW + 1 :] != IGNORE].float().mean())
    model.train()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/tiny"))
    parser.add_argument("--base", type=Path, default=Path("build/tiny/base"))
    parser.add_argument("--out", type=Path, default=Path("build/tiny/extended"))
    parser.add_argument("--steps", type=int, default=650)
    parser.add_argument("--micro-batches", type=int, default=2, help="per step, of 8 rows each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the base's weights")
    parser.add_argument("--new-lr", type=float, default=3.0, help="of cross-attention and gates, as a multiple of --lr")
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="JSON of config fields that replace the script's"
    )
    parser.add_argument("--max-steps", type=int, default=None, help="stop early (the schedule stays)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = SharedLLMForCausalLM.from_base(args.base, window=WINDOW, **(SETTINGS | args.settings)).train()
    optimizer = MasterWeights(model, args.lr, args.lr, {".gate": 10.0, "cross_attention": args.new_lr})
    rows = RowMaker(Corpus(args.data, "train"), tokenizer, random.Random(args.seed))
    validation = Corpus(args.data, "validation", {"books": 1.0})
    checks = RowMaker(validation, tokenizer, random.Random(2))
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.out / "log.jsonl")
    log.write(
        parameters=sum(p.numel() for p in model.parameters()),
        settings=SETTINGS | args.settings,
        arguments=json.loads(json.dumps(vars(args), default=str)),
    )

    final_ratios = model.config.ratios
    for step in range(min(args.steps, args.max_steps or args.steps)):
        ends = [sum(stage[0] for stage in CURRICULUM[: i + 1]) for i in range(len(CURRICULUM))]
        stage = next((s for s, end in zip(CURRICULUM, ends, strict=True) if step / args.steps < end), CURRICULUM[-1])
        _, ratios, *shares = stage
        model.config.ratios = ratios or final_ratios
        totals: dict[str, list[float]] = {}
        for _ in range(args.micro_batches):
            alone = rows.rng.random() < ALONE
            kinds = ["alone"] * ROWS_PER_MICRO_BATCH
            if not alone:
                kinds = rows.rng.choices(KINDS, shares, k=ROWS_PER_MICRO_BATCH)
            made = [
                rows.text(2 * WINDOW) if kind in ("text", "alone") else getattr(rows, kind)(2 * WINDOW, WINDOW)
                for kind in kinds
            ]
            ids, labels = stack(made)
            labels = labels[:, WINDOW:]
            memory = None
            if not alone:
                count = rows.rng.choices(list(OTHERS), OTHERS.values())[0]
                memory = with_others(model.read(ids[:, :WINDOW]), count, rows.rng)
            losses = row_losses(model, ids[:, WINDOW:], labels, memory)
            labelled = [max(1, n) for n in (labels[:, 1:] != IGNORE).sum(1).tolist()]
            weights = torch.tensor([WEIGHTS[k] / n / len(kinds) for k, n in zip(kinds, labelled, strict=True)])
            ((losses * weights).sum() / args.micro_batches).backward()
            optimizer.accumulate()
            for kind, loss, n in zip(kinds, losses.tolist(), labelled, strict=True):
                totals.setdefault(kind, []).append(loss / n)
        norm = optimizer.step(trapezoid(step, args.steps))
        if step % 10 == 0:
            gates = [
                round(float(torch.tanh(p.detach())), 4) for n, p in optimizer.master.items() if n.endswith(".gate")
            ]
            log.write(
                step=step,
                **{f"loss_{k}": sum(v) / len(v) for k, v in sorted(totals.items())},
                grad_norm=norm,
                gates=gates,
            )
        if step % 100 == 99 or step == args.steps - 1:
            model.config.ratios = final_ratios
            log.write(step=step, **validate(model, validation, checks))
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
