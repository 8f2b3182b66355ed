"""Recall, copying and language modelling of a base, by the layers that see the context and by how deep it was read."""

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.rows import Row, RowMaker
from ..data.synthetic import make_needles
from ..model.targets import IGNORE
from ..utils.errors import UserError
from .far import FarAttention

# If the ordinary base's recall is below this, the layers that recall needs can't be determined.
RECALLS = 0.5


@dataclass(frozen=True)
class Score:
    """A base's results when some layers see the context.

    name    the layers, in words          layers  their indices, from 0
    depth   layers through which the context was read; None for as many as each layer needs
    recall  share of right digits of hidden facts      copy  share of tokens of a repeated span
    loss    of the running text, in nats per token
    """

    name: str
    layers: list[int]
    depth: int | None
    recall: float
    copy: float
    loss: float


@dataclass(frozen=True)
class Diagnosis:
    """All scores and the settings that follow from them.

    needed         layers in which recall needs the context; empty if the base does not recall
    depth          layers through which the context must be read for it; None if the base does not recall
    injection_map  [lower, upper] pairs for SharedLLMConfig, with `lower_layers`
    """

    by_layers: list[Score]
    by_depth: list[Score]
    needed: list[int]
    depth: int | None
    injection_map: list[list[int]]
    lower_layers: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def diagnose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: np.ndarray,
    context: int,
    running: int,
    rows: int = 16,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> Diagnosis:
    """Measure a base on samples of `context` + `running` tokens.

    Args:
        ids: (T,) text to take samples from. rows: samples of each kind.
        progress: called with 1 for each of the `number_of_sets` sets of layers.

    Raises:
        UserError: the text is too short, or the family is not supported.
    """
    length = context + running
    if len(ids) < 2 * length:
        raise UserError(f"the text has {len(ids):,} tokens: at least {2 * length:,} are needed.")
    far, batches = FarAttention(model), _batches(tokenizer, ids, context, running, rows, seed)
    states = {kind: far.read(_tensor([r.context for r in made])) for kind, made in batches.items()}
    layers = list(range(model.config.num_hidden_layers))

    def score(name: str, chosen: Iterable[int], depth: int | None = None) -> Score:
        chosen = sorted(chosen)
        values = {}
        for kind, made in batches.items():
            labels = _tensor([r.labels for r in made])[:, 1:]
            logits = far.logits(states[kind], _tensor([r.running for r in made]), chosen, depth)[:, :-1].float()
            if kind == "text":
                values[kind] = float(cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE))
            else:
                values[kind] = float((logits.argmax(-1) == labels)[labels != IGNORE].float().mean())
        progress(1)
        return Score(name, chosen, depth, values["needles"], values["copy"], values["text"])

    by_layers = [score(name, chosen) for name, chosen in layer_sets(len(layers))]
    everything = by_layers[0].recall
    needed = []
    if everything >= RECALLS:
        alone = {s.layers[0]: s.recall for s in by_layers if s.name.startswith("only")}
        without = {int(s.name.split()[-1]): s.recall for s in by_layers if s.name.startswith("all but")}
        needed = [i for i in layers if alone[i] >= everything / 2 or without[i] < everything / 2]
    chosen = needed or layers
    by_depth = [score(f"depth {d}", chosen, d) for d in range(len(layers))]
    if not needed:
        return Diagnosis(by_layers, by_depth, [], None, [], None)
    reached = max(s.recall for s in by_depth)
    depth = next(depth for depth, s in enumerate(by_depth) if s.recall >= 0.9 * reached)
    pairs = [[min(depth, upper), upper] for upper in needed]
    return Diagnosis(by_layers, by_depth, needed, depth, pairs, max(lower for lower, _ in pairs) + 1)


def layer_sets(layers: int) -> list[tuple[str, list[int]]]:
    """Names and members of the sets of layers to try, the set of all layers first."""
    every = list(range(layers))
    sets = [("all", every), ("none", [])]
    sets += [(f"only {i}", [i]) for i in every]
    sets += [(f"all but {i}", [j for j in every if j != i]) for i in every]
    sets += [(f"bottom {k}", every[:k]) for k in range(2, layers - 1)]
    sets += [(f"top {k}", every[-k:]) for k in range(2, layers - 1)]
    return sets


def number_of_sets(layers: int) -> int:
    return len(layer_sets(layers)) + layers


def _batches(
    tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, context: int, running: int, rows: int, seed: int
) -> dict[str, list[Row]]:
    rng, length = random.Random(seed), context + running
    starts = [rng.randrange(len(ids) - length + 1) for _ in range(3 * rows)]
    texts = [ids[s : s + length].astype(np.int64) for s in starts]
    maker = RowMaker(tokenizer, "validation")
    return {
        "text": [maker.make("text", rng, texts, i, context, running) for i in range(rows)],
        "copy": [maker.make("copy", rng, texts, rows + i, context, running) for i in range(rows)],
        "needles": [_needle_row(maker, rng, texts[2 * rows + i], context) for i in range(rows)],
    }


def _needle_row(maker: RowMaker, rng: random.Random, text: np.ndarray, context: int) -> Row:
    """One fact anywhere in the context, with its question at the end; its digits are the labels."""
    (needle,) = make_needles(rng, 1, "validation")
    statement, question, answer = (maker.encode(t) for t in (needle.statement, needle.question, needle.answer))
    at = rng.randrange(context - len(statement) + 1)
    ids = text.copy()
    ids[at : at + len(statement)] = statement
    ids[-len(question) - len(answer) :] = np.concatenate([question, answer])
    labels = np.full(len(text) - context, IGNORE)
    labels[-len(answer) :] = answer
    return Row("needles", ids[:context], ids[context:], labels, question)


def _tensor(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
