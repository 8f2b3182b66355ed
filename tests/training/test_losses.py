"""Losses of rows: of models that take context and running text as one sequence, and of those that read by a query."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import pad, random_texts, tiny_base, tiny_shared
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from sharedllm.data.rows import Row, RowMaker
from sharedllm.model.targets import IGNORE
from sharedllm.training.batches import collate
from sharedllm.training.losses import RowLosses


def by_hand(model, text: list[int], learnt: list[bool]) -> float:
    """Mean loss of the labelled tokens of one text, read alone."""
    logits = model(torch.tensor([text])).logits[0, :-1]
    losses = cross_entropy(logits, torch.tensor(text[1:]), reduction="none")
    return float(losses.detach()[torch.tensor(learnt[1:])].mean())


@pytest.mark.parametrize("shifts", [[0], [1, 0]])
def test_context_and_running_text_are_one_sequence(shifts):
    model = tiny_base("llama")
    contexts, runnings = random_texts([12, 0, 5]), random_texts([9, 7, 9], seed=1)
    context, context_mask = pad(contexts, "right")
    running, running_mask = pad(runnings)
    labels = running.masked_fill(running_mask == 0, IGNORE)
    # In the last row only the answer has labels, so its context has none.
    labels[2, :-3] = IGNORE
    got = RowLosses(model)(running, running_mask.bool(), labels, context, context_mask.bool(), shifts=shifts)
    for row in range(3):
        own = [contexts[(row + shift) % 3] for shift in shifts] if contexts[row] else []
        text = [token for part in own for token in part] + runnings[row]
        starts = np.cumsum([0, *(len(part) for part in own)]).tolist()
        learnt = [row < 2 and place not in starts for place in range(len(text))]
        if row == 2:
            learnt[-3:] = [True] * 3
        assert float(got.loss[row].detach()) == pytest.approx(by_hand(model, text, learnt), rel=1e-4), row


def test_an_echo_has_its_running_text_as_context(base_folder):
    maker = RowMaker(AutoTokenizer.from_pretrained(base_folder), "train")
    text = np.arange(40)
    row = maker.make("echo", random.Random(0), [text], 0, 16, 24)
    assert row.kind == "echo" and row.context.tolist() == row.running.tolist() == list(range(16, 40))


@torch.no_grad()
def test_what_is_learnt_of_a_row_does_not_depend_on_the_others():
    """The query is a row's own beginning, wherever that stands in the batch, and no target."""
    model = tiny_shared("llama", selection="cosine").eval()
    contexts, runnings, queries = random_texts([40, 40]), random_texts([30, 24], seed=1), (25, 4)
    rows = []
    for context, running, size in zip(contexts, runnings, queries, strict=True):
        labels = np.array(running)
        labels[:size] = IGNORE
        rows.append(Row("instructions", np.array(context), np.array(running), labels, np.array(running[:size])))
    losses = RowLosses(model)
    together = losses(**inputs_of(collate(rows))).loss
    for row, alone in enumerate(rows):
        assert float(together[row]) == pytest.approx(float(losses(**inputs_of(collate([alone]))).loss), rel=1e-4), row
    changed = replace(rows[1], labels=np.array(runnings[1]))
    assert float(losses(**inputs_of(collate([rows[0], changed]))).loss[1]) == pytest.approx(
        float(together[1]), rel=1e-5
    )


def inputs_of(batch):
    return {name: tensor for name, tensor in batch.tensors().items() if name != "weights"}
