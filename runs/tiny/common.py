"""What the two training scripts of the tiny model share: token sampling, synthetic rows, optimiser, log and curve."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from sharedllm.data.synthetic import make_needles

IGNORE = -100
MIXTURE = {"books": 0.6, "code": 0.25, "proofs": 0.15}


class Corpus:
    """Token arrays of one split, sampled by domain weight; a sample never crosses a document border."""

    def __init__(self, folder: Path, split: str, mixture: dict[str, float] = MIXTURE):
        self.tokens = {d: np.load(folder / f"{d}-{split}.npy", mmap_mode="r") for d in mixture}
        self.documents = {
            d: [(e["start"], e["end"]) for e in json.loads((folder / f"{d}-{split}.json").read_text())] for d in mixture
        }
        self.mixture = mixture

    def span(self, rng: random.Random, length: int, domain: str | None = None) -> np.ndarray:
        """`length` consecutive tokens of one document, every start equally likely within the domain."""
        domain = domain or rng.choices(list(self.mixture), self.mixture.values())[0]
        documents = [(s, e) for s, e in self.documents[domain] if e - s >= length]
        start, end = rng.choices(documents, [e - s for s, e in documents])[0]
        at = rng.randrange(start, end - length + 1)
        return np.asarray(self.tokens[domain][at : at + length], dtype=np.int64)


@dataclass
class RowMaker:
    """Training rows of a given length: plain text, a copied span, or needles with questions.

    Labels are the tokens themselves (the model shifts them); in synthetic rows only what can be recalled is labelled.
    """

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    rng: random.Random

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def text(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self.corpus.span(self.rng, length)
        return ids, ids

    def copy(self, length: int, haystack: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A span of text or of random tokens comes twice; the second time is labelled but for its first two tokens.

        With a `haystack`, the first time lies in the first `haystack` tokens and the second one behind them, and the span
        is of text: a memory that keeps one token in some can't hold random ones.
        """
        span_length = self.rng.randint(8, (haystack or length) // 2 - 1)
        ids = self.corpus.span(self.rng, length).copy()
        source = self.rng.randint(0, (haystack or length - span_length) - span_length)
        target = self.rng.randint(haystack or source + span_length, length - span_length)
        if haystack is None and self.rng.random() < 0.5:
            low = len(self.tokenizer.all_special_ids)
            random_tokens = [self.rng.randrange(low, len(self.tokenizer)) for _ in range(span_length)]
            ids[source : source + span_length] = random_tokens
        ids[target : target + span_length] = ids[source : source + span_length]
        labels = np.full(length, IGNORE, dtype=np.int64)
        labels[target + 2 : target + span_length] = ids[target + 2 : target + span_length]
        return ids, labels

    def needles(self, length: int, haystack: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Needles in the first `haystack` tokens (all but the questions if None), questions at the end.

        About one needle per 64 tokens of haystack, at most 6; only the answers' digits are labelled.
        """
        count = max(1, min(6, (haystack or length) // 64))
        needles = make_needles(self.rng, count)
        asked = self.rng.sample(needles, max(1, min(count, (length - (haystack or 0)) // 96)) if count > 1 else 1)
        tail, tail_labels = [], []
        for needle in asked:
            question, answer = self.encode(needle.question), self.encode(needle.answer + ".\n")
            tail += [question, answer]
            tail_labels += [np.full(len(question), IGNORE), answer[:-2], np.full(2, IGNORE)]
        tail_ids, tail_label_ids = np.concatenate(tail), np.concatenate(tail_labels)
        statements = [self.encode(n.statement) for n in needles]
        front = haystack if haystack is not None else length - len(tail_ids)
        room = front - sum(len(s) for s in statements)
        if room < 0 or len(tail_ids) > length - (haystack or 0):
            return self.copy(length)
        filler = self.corpus.span(self.rng, length)
        cuts = sorted(self.rng.randint(0, room) for _ in needles)
        pieces, previous = [], 0
        for cut, statement in zip(cuts, statements, strict=True):
            pieces += [filler[previous:cut], statement]
            previous = cut
        pieces += [filler[previous:room], filler[room : length - len(tail_ids) - (front - room)], tail_ids]
        ids = np.concatenate(pieces)
        labels = np.concatenate([np.full(length - len(tail_ids), IGNORE), tail_label_ids])
        return ids, labels


class MasterWeights:
    """bf16 model, fp32 master weights: Muon for the matrices, AdamW for the rest; one learning-rate multiplier.

    Gradients of micro-batches are added up in fp32.
    """

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, groups: dict[str, float] | None = None):
        """`groups` maps a part of a parameter's name to a multiplier of its learning rate (first match wins)."""
        self.model, self.groups = model, groups or {}
        self.live = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.master = {n: nn.Parameter(p.detach().float().clone()) for n, p in self.live.items()}
        matrices = {n for n, p in self.live.items() if p.ndim == 2 and "embed" not in n and "lm_head" not in n}
        muon, adam = [], []
        for name, parameter in self.master.items():
            scale = next((s for part, s in self.groups.items() if part in name), 1.0)
            base = muon_lr if name in matrices else adam_lr
            (muon if name in matrices else adam).append(
                {"params": [parameter], "lr": base * scale, "base": base * scale}
            )
        self.optimizers = []
        if muon:
            self.optimizers.append(torch.optim.Muon(muon, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
        if adam:
            self.optimizers.append(torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=0.0))

    def accumulate(self) -> None:
        for name, parameter in self.live.items():
            if parameter.grad is None:
                continue
            master = self.master[name]
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def step(self, multiplier: float, clip: float = 1.0) -> float:
        norm = nn.utils.clip_grad_norm_(self.master.values(), clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * multiplier
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for name, parameter in self.live.items():
                parameter.copy_(self.master[name])
        return float(norm)

    def save(self, path: Path) -> None:
        save_file({n: p.detach().to(torch.bfloat16).contiguous() for n, p in self.master.items()}, path)


def trapezoid(step: int, steps: int, warmup: int = 50, decay: float = 0.3) -> float:
    """Learning-rate multiplier: linear warm-up, constant, linear decay to 0 over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (decay * steps))


def stack(rows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.stack([r[0] for r in rows])), torch.from_numpy(np.stack([r[1] for r in rows]))


class Log:
    """One JSON object a line, on disk and (short) on stdout."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w")
        self.start = time.time()

    def write(self, **values) -> None:
        record = {"seconds": round(time.time() - self.start, 1)} | {
            k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()
        }
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        print("  ".join(f"{k} {v}" for k, v in record.items()), flush=True)
