"""Properties of cutting input into running text and context: order kept, nothing lost, padding harmless."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharedllm.context.chunking import cat_ragged, check_ids, left_align, split_context


@st.composite
def padded(draw) -> tuple[list[list[int]], Tensor, Tensor]:
    """One to four texts, their ids (B, T) and mask; padding on either side, on both, or scattered in between."""
    texts = draw(st.lists(st.lists(st.integers(1, 99), max_size=12), min_size=1, max_size=4))
    width = max(map(len, texts)) + draw(st.integers(0, 3))
    side = draw(st.sampled_from(["left", "right", "both", "strewn"]))
    ids = torch.full((len(texts), width), -7)
    mask = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        spare = width - len(text)
        before = {"left": spare, "right": 0}.get(side)
        if side == "strewn":
            columns = sorted(draw(st.permutations(range(width)))[: len(text)])
        else:
            before = draw(st.integers(0, spare)) if before is None else before
            columns = list(range(before, before + len(text)))
        ids[row, columns] = torch.tensor(text, dtype=torch.long)
        mask[row, columns] = True
    return texts, ids, mask


def rows(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The real tokens of each row."""
    return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]


@given(padded())
def test_left_align(batch):
    texts, ids, mask = batch
    aligned, lengths = left_align(ids, mask)
    width = max(map(len, texts))
    assert lengths.tolist() == [len(text) for text in texts]
    assert aligned.tolist() == [text + [0] * (width - len(text)) for text in texts]
    assert aligned.dtype == ids.dtype


def test_cat_ragged():
    first, second = torch.tensor([[1, 2, 9], [3, 9, 9]]), torch.tensor([[4, 9], [5, 6]])
    joined = cat_ragged(first, torch.tensor([2, 1]), second, torch.tensor([1, 2]))
    assert joined.tolist() == [[1, 2, 4], [3, 5, 6]]
    assert cat_ragged(first[:0], torch.tensor([]).long(), second[:0], torch.tensor([]).long()).shape == (0, 0)


@given(padded(), st.integers(1, 15))
def test_split_context_cuts_each_row_at_its_own_end(batch, window):
    texts, ids, mask = batch
    split = split_context(ids, mask, window)
    assert rows(split.running_ids, split.running_mask) == [text[-window:] for text in texts]
    assert rows(split.context_ids, split.context_mask) == [text[:-window] for text in texts]
    assert split.running_ids.shape[1] <= window


@given(padded(), st.integers(1, 15))
def test_split_context_pads_outwards(batch, window):
    texts, ids, mask = batch
    split = split_context(ids, mask, window)
    running, context = split.running_mask, split.context_mask
    assert running.shape == split.running_ids.shape == split.running_columns.shape
    assert context.shape == split.context_ids.shape
    assert running.shape[1] == max(min(len(text), window) for text in texts), "no column without a token"
    assert context.shape[1] == max(max(len(text) - window, 0) for text in texts), "no column without a token"
    assert torch.equal(running, running.sort(dim=1).values), "running texts are padded on the left"
    assert torch.equal(context, context.sort(dim=1, descending=True).values), "contexts are padded on the right"
    assert not split.context_ids[~context].any()


@given(padded(), st.integers(1, 15))
def test_running_columns_point_into_the_input(batch, window):
    _, ids, mask = batch
    split = split_context(ids, mask, window)
    real = split.running_mask
    assert torch.equal(ids.gather(1, split.running_columns)[real], split.running_ids[real])
    assert mask.gather(1, split.running_columns)[real].all()


@given(padded(), st.integers(1, 15))
def test_a_row_does_not_depend_on_its_batch(batch, window):
    _, ids, mask = batch
    together = split_context(ids, mask, window)
    for row in range(len(ids)):
        alone = split_context(ids[row : row + 1], mask[row : row + 1], window)
        for part in ("running", "context"):
            ours = rows(getattr(together, f"{part}_ids"), getattr(together, f"{part}_mask"))[row]
            assert rows(getattr(alone, f"{part}_ids"), getattr(alone, f"{part}_mask")) == [ours]


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_nothing_to_split(shape):
    ids = torch.zeros(shape, dtype=torch.long)
    split = split_context(ids, torch.ones_like(ids, dtype=torch.bool), 4)
    assert len(split.running_ids) == len(split.context_ids) == shape[0]
    assert split.context_ids.numel() == 0


def test_check_ids_returns_a_bool_mask():
    ids = torch.tensor([[1, 2, 3], [4, 5, 999]])
    assert check_ids("input_ids", ids, None).tolist() == [[True] * 3] * 2
    mask = check_ids("input_ids", ids, torch.tensor([[1, 1, 1], [1, 1, 0]]), vocab_size=10)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True] * 3, [True, True, False]]
    assert check_ids("input_ids", ids[:, :0], None, vocab_size=10).shape == (2, 0)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.ones(3).long(), None, r"input_ids has shape \(3,\)"),
        (torch.ones(1, 3), None, r"dtype torch.float32: pass integer ids of shape \(B, T\)"),
        (torch.ones(1, 3).long(), torch.ones(1, 2), r"the mask of input_ids has shape \(1, 2\), the ids \(1, 3\)"),
        (torch.tensor([[3, 10]]), None, "input_ids holds id 10, but the vocabulary has 10 entries"),
        (torch.tensor([[-1, 3]]), None, "input_ids holds id -1"),
    ],
)
def test_check_ids_names_what_is_wrong(ids, mask, message):
    with pytest.raises(ValueError, match=message):
        check_ids("input_ids", ids, mask, vocab_size=10)
