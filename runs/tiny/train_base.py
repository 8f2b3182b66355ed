"""Train the tiny base model from scratch: an ordinary Llama with a window of 512 tokens.

Recall inside the window does not come by itself at this size. So after a first stage of mostly text, a second one
starts again from short rows that ask for it, copied spans and needles with questions, and lengthens them step by step.

Run: python runs/tiny/train_base.py --curriculum text --max-steps 600 --out build/tiny/base-text
     python runs/tiny/train_base.py --curriculum recall --init build/tiny/base-text --tokens 21e6 --out build/tiny/base
"""

import argparse
import json
import random
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from common import IGNORE, Corpus, Log, MasterWeights, RowMaker, stack, trapezoid

WINDOW = 512
TOKENS_PER_STEP = 16_384
TOKENS_PER_MICRO_BATCH = 4_096
# (share of the steps, sample length, share of text rows, of copy rows, of needle rows)
CURRICULA = {
    "text": [
        (0.06, 64, 0.6, 0.4, 0.0),
        (0.10, 128, 0.6, 0.2, 0.2),
        (0.14, 256, 0.75, 0.1, 0.15),
        (0.70, 512, 0.9, 0.04, 0.06),
    ],
    "recall": [
        (0.05, 32, 0.2, 0.8, 0.0),
        (0.05, 64, 0.2, 0.8, 0.0),
        (0.07, 128, 0.3, 0.35, 0.35),
        (0.08, 256, 0.5, 0.2, 0.3),
        (0.75, 512, 0.85, 0.05, 0.1),
    ],
}
# Weight of each kind's mean loss; None: every labelled token counts the same, so that recall drowns in text.
WEIGHTS = {"text": None, "recall": {"text": 1.0, "copy": 0.3, "needles": 0.3}}


def build_model(vocab_size: int, special: dict[str, int]) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        initializer_range=0.03,
        attn_implementation="eager",  # faster than SDPA for short bf16 rows on a CPU
        **special,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def validate(model: LlamaForCausalLM, corpora: dict[str, Corpus], needles: RowMaker) -> dict[str, float]:
    model.eval()
    result = {}
    for domain, corpus in corpora.items():
        rng = random.Random(1)
        ids = stack([(corpus.span(rng, WINDOW),) * 2 for _ in range(16)])[0]
        logits = model(ids, use_cache=False).logits
        targets = ids[:, -WINDOW // 2 :]
        predictions = logits[:, -WINDOW // 2 - 1 : -1]
        result[f"validation_{domain}"] = float(cross_entropy(predictions.flatten(0, 1).float(), targets.flatten()))
    for kind, length in (("copy", 64), ("copy", WINDOW), ("needles", 128), ("needles", WINDOW)):
        needles.rng = random.Random(2)
        ids, labels = stack([getattr(needles, kind)(length) for _ in range(16)])
        right = model(ids, use_cache=False).logits[:, :-1].argmax(-1) == labels[:, 1:]
        result[f"{kind}_{length}"] = float(right[labels[:, 1:] != IGNORE].float().mean())
    model.train()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/tiny"))
    parser.add_argument("--out", type=Path, default=Path("build/tiny/base"))
    parser.add_argument("--curriculum", choices=list(CURRICULA), default="text")
    parser.add_argument("--init", type=Path, default=None, help="folder of a base to go on from")
    parser.add_argument("--tokens", type=float, default=26e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adam-lr", type=float, default=4e-3)
    parser.add_argument("--max-steps", type=int, default=None, help="stop early (the schedule stays)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.data / "tokenizer")
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    if args.init is None:
        model = build_model(len(tokenizer), special)
    else:
        model = LlamaForCausalLM.from_pretrained(args.init, attn_implementation="eager")
    model = model.to(torch.bfloat16).train()
    optimizer = MasterWeights(model, args.muon_lr, args.adam_lr)
    rows = RowMaker(Corpus(args.data, "train"), tokenizer, random.Random(args.seed))
    corpora = {d: Corpus(args.data, "validation", {d: 1.0}) for d in ("books", "code", "proofs")}
    checks = RowMaker(corpora["books"], tokenizer, random.Random(2))
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.out)
    log = Log(args.out / "log.jsonl")
    log.write(
        parameters=sum(p.numel() for p in model.parameters()), arguments=json.loads(json.dumps(vars(args), default=str))
    )

    steps = int(args.tokens) // TOKENS_PER_STEP
    for step in range(min(steps, args.max_steps or steps)):
        progress, stages = step / steps, CURRICULA[args.curriculum]
        ends = [sum(stage[0] for stage in stages[: i + 1]) for i in range(len(stages))]
        stage = next((s for s, end in zip(stages, ends, strict=True) if progress < end), stages[-1])
        _, length, *shares = stage
        kinds = rows.rng.choices(["text", "copy", "needles"], shares, k=TOKENS_PER_STEP // length)
        ids, labels = stack([getattr(rows, kind)(length) for kind in kinds])
        labelled = (labels[:, 1:] != IGNORE).sum(1).tolist()
        counts = {k: max(1, sum(n for n, kind in zip(labelled, kinds, strict=True) if kind == k)) for k in set(kinds)}
        shares_of_loss = WEIGHTS[args.curriculum] or {kind: n / sum(counts.values()) for kind, n in counts.items()}
        weights = torch.tensor([shares_of_loss[kind] / counts[kind] for kind in kinds])
        totals, size = dict.fromkeys(kinds, 0.0), TOKENS_PER_MICRO_BATCH // length
        for micro in range(0, len(ids), size):
            rows_here = slice(micro, micro + size)
            logits = model(ids[rows_here], use_cache=False).logits[:, :-1]
            losses = (
                cross_entropy(
                    logits.flatten(0, 1).float(), labels[rows_here, 1:].flatten(), ignore_index=IGNORE, reduction="none"
                )
                .view(len(logits), -1)
                .sum(1)
            )
            (losses * weights[rows_here]).sum().backward()
            optimizer.accumulate()
            for kind, loss in zip(kinds[rows_here], losses.tolist(), strict=True):
                totals[kind] += loss / counts[kind]
        norm = optimizer.step(trapezoid(step, steps))
        if step % 10 == 0:
            log.write(step=step, length=length, **{f"loss_{k}": v for k, v in sorted(totals.items())}, grad_norm=norm)
        if step % 100 == 99 or step == steps - 1:
            log.write(step=step, **validate(model, corpora, checks))
            model.save_pretrained(args.out)
    model.set_attn_implementation("sdpa")
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
