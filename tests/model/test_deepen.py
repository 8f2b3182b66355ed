"""Reading deeper: the fast path equals the loops in values and gradients, and the base where both must agree."""

import pytest
import torch
from combined import combined
from helpers import FAMILIES, byte_tokenizer, pad, random_texts, tiny_base, tiny_shared
from torch import Tensor

from sharedllm import SharedLLMForCausalLM
from sharedllm.memory.segments import segments_of, take
from sharedllm.model import deepen as deepening
from sharedllm.model.deepen import Deepened, deepen
from sharedllm.model.encode import pieces_of
from sharedllm.model.layer_run import Before, LayerRun
from sharedllm.reference_deep import reference_deep_logits
from sharedllm.scoring.text_index import TextIndex
from sharedllm.utils.errors import UserError

PREFIX = [5, 3, 9]
DEEP = {"injection": "deep", "encoding": "chunk", "prefix": PREFIX, "window": 64}
SELECTED = [[0, 1, 2, 17, 18, 30, 44], [], [3, 4, 16], list(range(20))]
LENGTHS = [45, 12, 17, 20]


def deep(family: str, lower_layers: int = 2, base=None, **settings) -> SharedLLMForCausalLM:
    return tiny_shared(family, base=base, **DEEP | {"lower_layers": lower_layers} | settings)


def selected_memory(model: SharedLLMForCausalLM, contexts: list[list[int]], selected: list[list[int]]):
    ids, mask = pad(contexts, "right")
    everything = model.read(ids, mask, keep_all=True, gradients=True)
    slots = [torch.tensor(chosen, dtype=torch.long) for chosen in selected]
    return take(segments_of(everything), slots, [torch.ones_like(s) for s in slots])


def fast(model: SharedLLMForCausalLM, running: list[list[int]], contexts: list[list[int]]) -> list[Tensor]:
    ids, mask = pad(running)
    logits = model(ids, attention_mask=mask, memory=selected_memory(model, contexts, SELECTED)).logits
    assert torch.isfinite(logits).all()
    return [row[-len(text) :] for row, text in zip(logits, running, strict=True)]


@pytest.mark.parametrize("lower_layers", [2, 4])
@torch.no_grad()
def test_reading_plainly_runs_the_same_layers(lower_layers, monkeypatch):
    """The layers below M, all of their tokens: there is no layer above the states from which deepening goes on."""
    model = deep("llama", lower_layers, base=tiny_base("llama")).eval()
    ran: list[tuple[int, int]] = []
    layer = LayerRun.layer

    def counted(run: LayerRun, index: int, hidden: Tensor, before: Before | None, whole: bool = True):
        ran.append((index, hidden.shape[1]))
        return layer(run, index, hidden, before, whole)

    monkeypatch.setattr(LayerRun, "layer", counted)
    ids = torch.tensor(random_texts([13]))
    memories = [model.read(ids, keep_all=True, plain=plain) for plain in (False, True)]
    layers = [(index, tokens) for tokens in (len(PREFIX), 13) for index in range(lower_layers)]
    assert ran == [*layers, *layers]
    for ours, theirs in zip(*(m.keys + m.values + m.residuals for m in memories), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("family", "lower_layers", "prefix"), combined(FAMILIES, (1, 2, 4), (PREFIX, None)))
def test_equals_the_loops(family, lower_layers, prefix):
    """In values and gradients, for ragged texts with ragged selections, padded on the left and on the right."""
    model = deep(family, lower_layers, base=tiny_base(family, dtype=torch.float64), prefix=prefix)
    running, contexts = random_texts([6, 9, 1, 4], 1), random_texts(LENGTHS, 2)
    got = fast(model, running, contexts)
    expected = [reference_deep_logits(model, *texts) for texts in zip(running, contexts, SELECTED, strict=True)]
    gradients = []
    for rows in (got, expected):
        model.zero_grad()
        sum((row * torch.linspace(-1, 1, row.numel(), dtype=row.dtype).view_as(row)).sum() for row in rows).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert float((gradient - gradients[1][name]).abs().max()) <= 1e-5 * float(gradients[1][name].abs().max()), name


# A piece has 8 to 16 tokens (window 64). Few tokens end a paragraph or a sentence, so that many pieces find none in time.
CLOSING = {"parting": [1, 31], "closing": [0, 20, 40, 60], "pausing": list(range(5, 64, 10)), "breaking": list(range(1, 64, 5)), "chunk_size": 24}  # fmt: skip


# Half of the tokens have another form for the beginning of a piece.
BARE = " ".join(f"{token}:{63 - token}" for token in range(0, 64, 2))


@pytest.mark.parametrize(("family", "prefix", "bare"), combined(FAMILIES, (PREFIX, None), (BARE, None)))
def test_pieces_read_alone_equal_the_loops(family, prefix, bare):
    """In values and gradients, for ragged texts with ragged selections, padded on the left and on the right."""
    model = deep(family, 2, base=tiny_base(family, dtype=torch.float64), prefix=prefix, bare=bare, **CLOSING)
    running, contexts = random_texts([6, 9, 1, 4], 1), random_texts(LENGTHS, 2)
    for kind in ("parting", "closing", "pausing"):
        assert any(token in CLOSING[kind] for text in contexts for token in text)
    got = fast(model, running, contexts)
    expected = [reference_deep_logits(model, *texts) for texts in zip(running, contexts, SELECTED, strict=True)]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    gradients = []
    for rows in (got, expected):
        model.zero_grad()
        sum((row * torch.linspace(-1, 1, row.numel(), dtype=row.dtype).view_as(row)).sum() for row in rows).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        assert float((gradient - gradients[1][name]).abs().max()) <= 1e-5 * float(gradients[1][name].abs().max()), name


@pytest.mark.parametrize("bare", [None, BARE])
def test_a_selected_piece_is_read_as_the_base_reads_it(bare):
    """Whatever stands around it in the text, to the last bit but rounding: it is the base's window."""
    model, (context, asked) = deep("llama", 2, bare=bare, **CLOSING), random_texts([45, 6], 2)
    pieces = pieces_of(model.config, torch.tensor([context]), torch.tensor([45]))
    assert len(pieces) > 3
    for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True):
        memory = selected_memory(model, [context], [list(range(start, end))])
        with torch.no_grad():
            ours = model(torch.tensor([asked]), memory=memory).logits
            first = 63 - context[start] if bare and context[start] < 64 and context[start] % 2 == 0 else context[start]
            plain = model(torch.tensor([[*PREFIX, first, *context[start + 1 : end], *asked]])).logits[:, -len(asked) :]
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        assert memory.token_ids[0].tolist() == context  # what the memory says of the text stays as it is written


def test_text_that_is_appended_is_cut_as_in_one_go():
    model, (context,) = deep("llama", 2, bare=BARE, **CLOSING), random_texts([45], 2)
    ids = torch.tensor([context])
    whole = model.read(ids, keep_all=True)
    for at in (5, 24, 31):
        grown = model.append(model.read(ids[:, :at], keep_all=True), ids[:, at:])
        torch.testing.assert_close(grown.residuals[0], whole.residuals[0])


def test_questions_select_the_pieces_that_were_read():
    model, (context,) = deep("llama", 2, **CLOSING), random_texts([45], 2)
    memory = model.read(torch.tensor([context]), keep_all=True)
    pieces = TextIndex(segments_of(memory), byte_tokenizer(), 64, marks=model.config.marks).pieces
    units = pieces_of(model.config, torch.tensor([context]), torch.tensor([45]))
    assert torch.equal(pieces.start, units.start) and torch.equal(pieces.end, units.end)


@pytest.mark.parametrize("kept", [[[1, 1]], [[0, 0], [2, 2]]])
def test_bottom_layers_that_keep_no_keys_see_the_prefix_only(kept):
    model = deep("qwen2", 2, base=tiny_base("qwen2", dtype=torch.float64), injection_map=kept)
    running, contexts = random_texts([6, 9, 1, 4], 1), random_texts(LENGTHS, 2)
    with torch.no_grad():
        for ours, texts in zip(
            fast(model, running, contexts), zip(running, contexts, SELECTED, strict=True), strict=True
        ):
            torch.testing.assert_close(ours, reference_deep_logits(model, *texts), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("family", "lower_layers"), [("llama", 1), ("qwen3", 3), ("mistral", 4)])
def test_one_chunk_is_read_as_the_base_reads_it(family, lower_layers):
    """A text of one chunk, selected whole, equals text in the window: the same logits and the same generated tokens."""
    base = tiny_base(family)
    model = deep(family, lower_layers, base=base, chunk_size=40)
    (context, running) = random_texts([40, 7], 3)
    memory = model.read(torch.tensor([context]), keep_all=True)
    whole, asked = torch.tensor([PREFIX + context + running]), torch.tensor([running])
    with torch.no_grad():
        torch.testing.assert_close(model(asked, memory=memory).logits, base(whole).logits[:, -7:], rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = base.generate(whole, attention_mask=torch.ones_like(whole), **options)[0, -6:]
    assert model.generate(asked, memory=memory, **options)[0, -6:].tolist() == expected.tolist()


def test_chunks_are_read_apart_and_after_the_prefix():
    """A chunk's streams are the base's over prefix and chunk, whatever other chunks contain."""
    base = tiny_base("qwen2")
    model, (context,) = deep("qwen2", 2, base=base), random_texts([40], 4)
    with torch.no_grad():
        streams = model.read(torch.tensor([context]), keep_all=True).residuals[0][0, 0]
        hidden = base(torch.tensor([PREFIX + context[16:32]]), output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(streams[16:32], hidden[0, len(PREFIX) :], rtol=1e-5, atol=1e-5)


def test_half_precision_stays_near():
    base = tiny_base("qwen2")
    exact = deep("qwen2", 2, base=base)
    running, contexts = random_texts([6, 9, 1, 4], 1), random_texts(LENGTHS, 2)
    with torch.no_grad():
        expected = fast(exact, running, contexts)
        got = fast(deep("qwen2", 2, base=base.to(torch.bfloat16)), running, contexts)
    for ours, theirs in zip(got, expected, strict=True):
        assert float((ours.float() - theirs).norm() / theirs.norm()) < 0.05


def test_rows_of_one_text_and_a_static_cache_change_nothing():
    model = deep("llama", 2)
    (context,), running = random_texts([45], 2), random_texts([6, 6], 1)
    memory = selected_memory(model, [context], [SELECTED[0]])
    asked, options = torch.tensor(running), {"max_new_tokens": 5, "do_sample": False}
    both = model.generate(asked, memory=memory, **options)
    alone = torch.cat([model.generate(row[None], memory=memory, **options) for row in asked])
    assert both.tolist() == alone.tolist()
    static = model.generate(asked[:1], memory=memory, cache_implementation="static", disable_compile=True, **options)
    assert static.tolist() == alone[:1].tolist()


def test_more_than_the_base_has_positions_for():
    model, (context,) = deep("llama", 2), random_texts([70], 2)
    with pytest.raises(UserError, match="70 tokens are selected, but the base has 64 positions: select fewer"):
        model(torch.tensor([[1, 2]]), memory=model.read(torch.tensor([context]), keep_all=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"injection_map": [[0, 1]]}, "a layer can only read its own keys"),
        ({"injection_map": [[3, 3]]}, "injection_map reads lower layer 3"),
        ({"encoding": "node"}, "injection='deep' continues"),
        ({"prefix": [101]}, "outside the base's vocabulary of 101"),
        ({"bare": "1:2"}, "bare without closing"),
        *(
            ({"bare": f"3:4 {wrong}", **CLOSING}, f"bare has '{wrong}': each pair")
            for wrong in ("1:101", "3", "1:-2", "one:1", "", "3:5", f"{10**30}:1")
        ),
    ],
)
def test_settings_that_can_not_work(changes, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        deep("llama", 2, **changes)


def test_the_same_selection_is_read_deeper_once(monkeypatch):
    """Cached for a memory with a fingerprint; another selection, gradients or a full cache read it again."""
    model, (context,) = deep("llama", 2), random_texts([45], 2)
    calls = []
    monkeypatch.setattr("sharedllm.model.deepen.deepen", lambda *a: calls.append(1) or deepen(*a))
    first, same, other = (
        selected_memory(model, [context], [chosen]) for chosen in ([1, 2, 30], [1, 2, 30], [1, 2, 31])
    )
    asked = torch.tensor(random_texts([5], 1))
    with torch.no_grad():
        logits = [model(asked, memory=memory).logits for memory in (first, same, other, first)]
    assert len(calls) == 2 and torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[3])
    assert not torch.equal(logits[0], logits[2])
    model(asked, memory=first)
    assert len(calls) == 3
    model.model._deepened = Deepened(tokens=5)
    with torch.no_grad():
        for memory in (first, other, first):
            model(asked, memory=memory)
    assert len(calls) == 6


def test_changed_weights_above_are_read_again():
    """The memory is still valid, because only the bottom layers read it, but what the others made of it is not."""
    model, (context,) = deep("llama", 2), random_texts([45], 2)
    memory, asked = selected_memory(model, [context], [[1, 2, 30]]), torch.tensor(random_texts([5], 1))
    with torch.no_grad():
        before = model(asked, memory=memory, use_cache=False).logits
        model.model.upper.layers[-2].mlp.down_proj.weight.mul_(3.0)
        after = model(asked, memory=memory, use_cache=False).logits
        model.model._deepened = Deepened()
        torch.testing.assert_close(model(asked, memory=memory, use_cache=False).logits, after, rtol=0, atol=0)
    assert not torch.allclose(before, after)


def test_the_prefix_is_read_once_for_all_selections(monkeypatch):
    """Until weights change."""
    model, (context,) = deep("llama", 2), random_texts([45], 2)
    calls, read = [], deepening.read_prefix
    monkeypatch.setattr(deepening, "read_prefix", lambda *a: calls.append(1) or read(*a))
    memories = [selected_memory(model, [context], [chosen]) for chosen in ([1, 2, 30], [1, 2, 31], [])]
    asked = torch.tensor(random_texts([5], 1))
    with torch.no_grad():
        for memory in memories:
            model(asked, memory=memory)
        assert len(calls) == 1
        model.model.upper.layers[-2].mlp.down_proj.weight.mul_(3.0)
        model(asked, memory=memories[0])
    assert len(calls) == 2
