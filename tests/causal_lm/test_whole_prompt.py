"""What counts over a whole prompt counts so although a part of it is read as context."""

import pytest
import torch
from helpers import random_texts, tiny_base, tiny_shared
from torch.nn.functional import pad
from transformers import LogitsProcessor, LogitsProcessorList

from sharedllm.utils.errors import UserError


def ids_of(*lengths: int, seed: int = 0):
    return torch.tensor(random_texts(list(lengths), seed))


LONG = ids_of(60, 60)  # the window has 32
IGNORE = -100


@pytest.fixture(scope="module")
def model():
    return tiny_shared("llama", base=tiny_base("llama"), window=32)


class Seen(LogitsProcessor):
    def __init__(self):
        self.ids = []

    def __call__(self, input_ids, scores):
        self.ids.append(input_ids.clone())
        return scores


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 3}])
@pytest.mark.parametrize("new", [4, 40])
def test_processors_see_the_whole_prompt(model, options, new):
    if new == 40 and "num_beams" in options:
        with pytest.raises(UserError, match="can't be folded into the memory in beam_search"):
            model.generate(LONG, max_new_tokens=new, **options)
        return
    seen = Seen()
    out = model.generate(LONG, max_new_tokens=new, logits_processor=LogitsProcessorList([seen]), **options)
    rows = len(seen.ids[0]) // 2
    assert [ids.shape[1] for ids in seen.ids] == list(range(60, 60 + len(seen.ids)))
    for ids in seen.ids:
        assert torch.equal(ids[:, :60], LONG.repeat_interleave(rows, 0))
    if "num_beams" not in options:
        assert torch.equal(seen.ids[-1], out[:, : seen.ids[-1].shape[1]])


def test_a_repetition_penalty_knows_what_was_read_as_context(model):
    """A token of the far part that would come next is punished, as in a model that sees all at once."""
    plain = model.generate(LONG, max_new_tokens=1, output_scores=True, return_dict_in_generate=True)
    likeliest = plain.sequences[:, -1]
    prompt = LONG.clone()
    prompt[:, 0] = likeliest  # far out of the window
    prompt[:, 30:] = torch.where(
        prompt[:, 30:] == likeliest[:, None], (likeliest[:, None] + 1) % 90 + 1, prompt[:, 30:]
    )
    scores = [
        model.generate(
            prompt, max_new_tokens=1, repetition_penalty=p, output_scores=True, return_dict_in_generate=True
        ).scores[0]
        for p in (1.0, 2.0)
    ]
    for row in range(2):
        before, after = (s[row, likeliest[row]] for s in scores)
        torch.testing.assert_close(after, before / 2 if before > 0 else before * 2)
        absent = next(i for i in range(1, 99) if i not in prompt[row].tolist())
        assert scores[0][row, absent] == scores[1][row, absent]


@pytest.mark.parametrize("least", [{"min_length": 66}, {"min_new_tokens": 6}, {"min_length": 63, "min_new_tokens": 6}])
def test_least_lengths_count_the_whole_prompt(model, least):
    free = model.generate(LONG[:1], max_new_tokens=12)[0, 60:].tolist()
    end = free[1]
    assert len(model.generate(LONG[:1], max_new_tokens=12, eos_token_id=end, pad_token_id=0)[0]) <= 62
    out = model.generate(LONG[:1], max_new_tokens=12, eos_token_id=end, pad_token_id=0, **least)[0]
    assert len(out) >= 66 and end not in out[60:65].tolist()
    short = model.generate(LONG[:1], max_new_tokens=12, eos_token_id=end, pad_token_id=0, min_length=20)[0]
    assert len(short) <= 62


def test_continuous_batching_is_refused(model):
    for use in (model.generate_batch, model.init_continuous_batching, model.continuous_batching_context_manager):
        with pytest.raises(ValueError, match="continuous batching can't attend to a memory: use generate"):
            use([[1, 2, 3]])


def test_an_assistant_over_a_memory_is_refused(model):
    assistant = tiny_base("llama", num_hidden_layers=1)
    memory = model.read(ids_of(40, seed=1))
    for prompt, options in (
        (LONG[:1], {}),
        (LONG[:1, :9], {"memory": memory}),
        (LONG[:1, :9], {"context_ids": LONG[:1]}),
    ):
        with pytest.raises(ValueError, match="assistant_model reads no memory"):
            model.generate(prompt, assistant_model=assistant, max_new_tokens=4, **options)
    alone = model.generate(LONG[:1, :9], max_new_tokens=6)
    assert torch.equal(model.generate(LONG[:1, :9], assistant_model=assistant, max_new_tokens=6), alone)


@pytest.mark.parametrize("shape", [(1, 0), (0, 5), (0, 0)])
def test_prompts_of_nothing_are_refused(model, shape):
    nothing = torch.zeros(shape, dtype=torch.long)
    for use in (lambda: model.generate(nothing, max_new_tokens=2), lambda: model(nothing)):
        with pytest.raises(
            ValueError, match=r"input_ids has shape \(\d, \d\): give at least one row, of at least one token"
        ):
            use()


# --- losses -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_targets_that_are_read_as_context_do_not_count(model):
    """The caller counted all of them; the loss stays a mean over those that are left."""
    mean = model(LONG, labels=LONG).loss
    for items in (118, torch.tensor(118)):
        torch.testing.assert_close(model(LONG, labels=LONG, num_items_in_batch=items).loss, mean)
    # Two batches whose targets are counted together: each is weighted by what it brought.
    torch.testing.assert_close(model(LONG, labels=LONG, num_items_in_batch=236).loss, mean / 2)
    short = LONG[:, :20]
    torch.testing.assert_close(
        model(short, labels=short, num_items_in_batch=76).loss, model(short, labels=short).loss / 2
    )
    nothing = torch.full_like(LONG, IGNORE)
    nothing[:, :9] = LONG[:, :9]
    assert model(LONG, labels=nothing, num_items_in_batch=18).loss == 0


@pytest.mark.parametrize("length", [20, 60])
@pytest.mark.parametrize("side", ["left", "right", None])
@torch.no_grad()
def test_shifted_labels_are_labels(model, length, side):
    ids, mask = LONG[:, :length].clone(), torch.ones(2, length, dtype=torch.long)
    if side is not None:
        mask[0, slice(0, 7) if side == "left" else slice(-7, None)] = 0
    labels = ids.clone()
    shifted = pad(labels.masked_fill(mask == 0, IGNORE)[:, 1:], (0, 1), value=IGNORE)
    ours = model(ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(model(ids, attention_mask=mask, shift_labels=shifted).loss, ours)
    torch.testing.assert_close(model(ids, attention_mask=mask, labels=labels, shift_labels=shifted).loss, ours)
    other = model(ids, attention_mask=mask, shift_labels=torch.ones_like(shifted)).loss
    assert not torch.allclose(other, ours)
    with pytest.raises(ValueError, match=r"shift_labels has shape \(2, 3\)"):
        model(ids, attention_mask=mask, shift_labels=shifted[:, :3])
