"""Properties of the model for any weights: a harmless start, invariances, causality, gradients, splitting."""

from dataclasses import fields, replace
from itertools import product

import pytest
import torch
from combined import combined, rarely
from helpers import FAMILIES, VOCAB, pad, random_texts, tiny_base, tiny_shared
from torch import Tensor
from torch.nn.functional import cross_entropy

from sharedllm import ContextMemory, SharedLLMForCausalLM
from sharedllm.model.lower import MOST_ON_CPU, MOST_TOKENS
from sharedllm.utils.hardware import free_memory

MAPS = {"default": None, "different": [[2, 0], [1, 1], [0, 3]]}
SETTINGS = {"window": 32, "chunk_size": 16, "strides": [4, 2, 1], "lower_layers": 3}
PER_TOKEN = ("mask", "chunk", "position", "stride")


def ids_of(*lengths: int, seed: int = 0) -> Tensor:
    """Random ids (B, T) of equal lengths."""
    return torch.tensor(random_texts(list(lengths), seed))


def difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value; NaN and infinity are refused."""
    assert got.shape == expected.shape
    assert torch.isfinite(got).all() and torch.isfinite(expected).all()
    return float((got - expected).detach().abs().max() / expected.detach().abs().max()) if got.numel() else 0.0


def logits_of(model: SharedLLMForCausalLM, *args, **kwargs) -> Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).logits


def assert_same_memory(got: ContextMemory, expected: ContextMemory) -> None:
    """Equal in all integers, equal up to rounding in keys and values."""
    for name in (*PER_TOKEN, "token_ids", "lengths"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    for kind in ("keys", "values", "residuals"):
        for ours, theirs in zip(getattr(got, kind), getattr(expected, kind), strict=True):
            assert difference(ours, theirs) < 1e-5, kind


# --- harmless start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "implementation", "dtype"),
    combined(FAMILIES, ["eager", "sdpa"], [torch.float32, torch.bfloat16]),
    ids=str,
)
def test_harmless_start(family, implementation, dtype):
    """Before training, logits equal the base's to the bit, with and without context and padding."""
    ids, context = ids_of(12, 12), ids_of(40, 40, seed=1)
    padded, mask = pad(random_texts([12, 5], 2))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    base = tiny_base(family, attn_implementation=implementation, dtype=dtype)
    plain = logits_of(base, ids)
    plain_padded = logits_of(base, padded, attention_mask=mask, position_ids=positions)
    for injection_map, weights in product(MAPS.values(), ("shared", "copy")):
        base = tiny_base(family, attn_implementation=implementation, dtype=dtype)
        model = SharedLLMForCausalLM.from_base(base, **SETTINGS, injection_map=injection_map, lower_weights=weights)
        assert model.model.upper.config._attn_implementation == implementation
        # With gradients, which the other calls are without.
        read = model(ids, context_ids=context).logits
        assert read.dtype == dtype and torch.equal(read, plain)
        assert torch.equal(logits_of(model, ids), plain)
        assert torch.equal(logits_of(model, padded, attention_mask=mask), plain_padded)
        assert torch.equal(logits_of(model, padded, attention_mask=mask, context_ids=context), plain_padded)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_joint_softmax_over_everything_is_the_base(family):
    """All layers, stride 1, one chunk, true positions: the base over context and running text."""
    base = tiny_base(family)
    settings = {"chunk_size": 24, "strides": [1], "lower_layers": 4, "encoding": "chunk", "window": 32}
    model = SharedLLMForCausalLM.from_base(base, **settings, injection="joint", key_position="offset")
    ids, _ = pad(random_texts([33, 33]))
    ours = model(input_ids=ids[:, 24:], context_ids=ids[:, :24]).logits
    assert difference(ours, base(ids).logits[:, 24:]) < 1e-5


@pytest.mark.parametrize("start", ["zero", "random"])
@torch.no_grad()
def test_starts_without_a_gate(start):
    base = tiny_base("qwen3")
    model = SharedLLMForCausalLM.from_base(base, chunk_size=16, strides=[2, 1], lower_layers=2, start=start)
    assert not [name for name, _ in model.named_parameters() if name.endswith("gate")]
    ids, _ = pad(random_texts([20]))
    same = torch.equal(model(input_ids=ids[:, :9], context_ids=ids[:, 9:]).logits, base(ids[:, :9]).logits)
    assert same == (start == "zero")


@pytest.mark.parametrize("family", FAMILIES)
def test_base_instance_stays_as_it_is(family):
    base, ids = tiny_base(family), ids_of(12, 12)
    names, layer_class, before = list(base.state_dict()), type(base.model.layers[0]), logits_of(base, ids)
    model = tiny_shared(family, base=base)
    assert difference(logits_of(model, ids, context_ids=ids), before) > 1e-2
    assert torch.equal(logits_of(base, ids), before)
    assert list(base.state_dict()) == names
    assert all(type(layer) is layer_class for layer in base.model.layers)


@pytest.mark.parametrize("order", [("base", "model"), ("model", "base"), ("base before", "model", "base")])
def test_hidden_states_of_base_and_model_do_not_mix(order):
    """Recording installs hooks in layers: both models must see every layer once, whichever records first."""
    base, ids = tiny_base("llama"), ids_of(6)
    if order[0] == "base before":
        base(ids, output_hidden_states=True)
    models = {"base": base, "model": tiny_shared("llama", base=base)}
    for name in (name for name in order if name in models):
        assert len(models[name](ids, output_hidden_states=True, use_cache=False).hidden_states) == 5, name


def test_gates_have_gradients_at_the_start():
    model = SharedLLMForCausalLM.from_base(tiny_base("llama"), **SETTINGS)
    ids = ids_of(12, 12)
    model(ids, context_ids=ids_of(40, 40, seed=1), labels=ids).loss.backward()
    gates = {name: p for name, p in model.named_parameters() if name.endswith(".gate")}
    assert len(gates) == 3
    assert all(p.item() == 0 and p.grad.item() != 0 for p in gates.values())


# --- invariances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "encoding"), combined(FAMILIES, ["node", "chunk"]))
def test_batched_equals_single(family, encoding):
    """Ragged contexts padded on either side, left-padded running texts; a row without context equals no context."""
    model = tiny_shared(family, encoding=encoding)
    running, contexts = random_texts([9, 4, 1, 6, 8], 0), random_texts([17, 0, 1, 45, 16], 1)
    ids, mask = pad(running)
    for side in ("left", "right"):
        context_ids, context_mask = pad(contexts, side)
        batched = logits_of(
            model, ids, attention_mask=mask, context_ids=context_ids, context_attention_mask=context_mask
        )
        for row, text, context in zip(batched, running, contexts, strict=True):
            options = {"context_ids": torch.tensor([context])} if context else {}
            assert difference(row[-len(text) :], logits_of(model, torch.tensor([text]), **options)[0]) < 1e-5


def test_empty_context_is_no_context():
    model, ids = tiny_shared("llama"), ids_of(5, 5)
    nothing = torch.zeros(2, 0, dtype=torch.long)
    assert torch.equal(logits_of(model, ids, context_ids=nothing), logits_of(model, ids))
    memory = model.read(nothing)
    assert torch.equal(logits_of(model, ids, memory=memory), logits_of(model, ids))
    text = ids_of(40, 40)
    for one, other in zip(model.append(memory, text).keys, model.read(text).keys, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("unit", ["entries", "chunks"])
def test_order_of_a_memory_is_free(unit):
    """Permuting entries or whole chunks together with their indices changes nothing; without the indices it does."""
    model, ids = tiny_shared("llama"), ids_of(8, 8)
    memory = model.read(ids_of(48, 48, seed=1))
    expected = logits_of(model, ids, memory=memory)
    generator = torch.Generator().manual_seed(0)
    if unit == "entries":
        order = torch.randperm(memory.mask.shape[1], generator=generator)
    else:
        order = torch.argsort((memory.chunk[0] + 1) % 3, stable=True)
    heads = {n: tuple(t[:, :, order] for t in getattr(memory, n)) for n in ("keys", "values")}
    indices = {n: getattr(memory, n)[:, order] for n in PER_TOKEN}
    assert difference(logits_of(model, ids, memory=replace(memory, **heads, **indices)), expected) < 1e-5
    assert difference(logits_of(model, ids, memory=replace(memory, **heads)), expected) > 1e-3
    assert difference(logits_of(model, ids, memory=replace(memory, chunk=indices["chunk"])), expected) > 1e-3


@pytest.mark.parametrize(
    ("cuts", "settings"),
    combined(
        [[0], [1], [15], [16], [17], [44], [45], [3, 5, 20], [16, 16, 32]],
        [("node", 0), ("chunk", 0), ("chunk", 5), ("chunk", 20)],
    ),
    ids=str,
)
def test_append_equals_one_go(cuts, settings):
    encoding, overlap = settings
    model, text = tiny_shared("llama", encoding=encoding, overlap=overlap), ids_of(45, 45)
    parts = [text[:, a:b] for a, b in zip([0, *cuts], [*cuts, 45], strict=True)]
    memory = model.read(parts[0])
    for part in parts[1:]:
        memory = model.append(memory, part)
    assert_same_memory(memory, model.read(text))


@pytest.mark.parametrize(("selection", "overlap"), [("right", 0), ("cosine", 0), ("right", 9)])
def test_append_ragged_batch(selection, overlap):
    """Each text continues where it ended, even if it was empty or gets nothing."""
    model = tiny_shared("qwen3", selection=selection, encoding="chunk" if overlap else "node", overlap=overlap)
    query = {"query_ids": ids_of(3, 3, 3, 3, 3, seed=9)} if selection == "cosine" else {}
    first, second, third = [20, 0, 16, 33, 5], [7, 16, 0, 40, 11], [3, 18, 1, 0, 16]
    whole = random_texts([sum(n) for n in zip(first, second, third, strict=True)])
    parts = ([t[:a] for t, a in zip(whole, first, strict=True)],)
    parts += ([t[a : a + b] for t, a, b in zip(whole, first, second, strict=True)],)
    parts += ([t[a + b :] for t, a, b in zip(whole, first, second, strict=True)],)
    memory = model.read(*pad(parts[0], "right"), **query)
    for side, part in zip(("left", "right"), parts[1:], strict=True):
        memory = model.append(memory, *pad(part, side), **query)
    expected = model.read(*pad(whole, "right"), **query)
    assert_same_memory(memory, expected)
    ids = ids_of(4, 4, 4, 4, 4, seed=5)
    assert difference(logits_of(model, ids, memory=memory), logits_of(model, ids, memory=expected)) < 1e-5


@pytest.mark.parametrize(("family", "lower_layers", "encoding"), combined(FAMILIES, [1, 2, 3, 4], ["node", "chunk"]))
def test_shortcut_equals_whole_layers(family, lower_layers, encoding):
    model, context = tiny_shared(family, lower_layers=lower_layers, encoding=encoding), pad(random_texts([45, 17, 0]))
    assert_same_memory(model.read(*context), model.read(*context, plain=True))


@pytest.mark.parametrize("encoding", ["node", "chunk"])
def test_batch_tokens_changes_nothing(encoding):
    model, context, counted = tiny_shared("llama", encoding=encoding), pad(random_texts([45, 17, 0, 64])), []
    expected = model.read(*context)
    for batch_tokens in (1, 7, 16, 40, 10_000):
        counted.clear()
        assert_same_memory(model.read(*context, batch_tokens=batch_tokens, progress=counted.append), expected)
        assert sum(counted) == 45 + 17 + 64


def test_what_runs_at_once_follows_from_the_free_memory(monkeypatch):
    model, context = tiny_shared("llama", encoding="chunk"), pad(random_texts([64]))
    expected, lower, device = model.read(*context), model.model.lower(), torch.device("cpu")
    assert 0 < free_memory(device) < 1 << 50
    # Two of the three lower layers run; 32 wide, 48 inside the MLP.
    a_token, ran = 4 * ((2 + 12) * 32 + 3 * 48) * lower.embed.weight.dtype.itemsize, []
    for free, tokens in ((None, 64), (1 << 40, 64), (47 * a_token, 32), (1000, 16)):
        monkeypatch.setattr("sharedllm.model.lower.free_memory", lambda device, free=free: free)
        ran.clear()
        assert_same_memory(model.read(*context, progress=ran.append), expected)
        assert max(ran) <= tokens and sum(ran) == 64
    assert lower.fitting(2, device) == 1
    monkeypatch.setattr("sharedllm.model.lower.free_memory", lambda device: 1 << 50)
    assert (lower.fitting(2, device), lower.fitting(2, torch.device("meta"))) == (MOST_ON_CPU, MOST_TOKENS)


@pytest.mark.parametrize("name", ["different", *rarely("default")])
def test_causality(name):
    """A token of the running text reaches no earlier logit; every token of the context reaches them all."""
    model = tiny_shared("llama", injection_map=MAPS[name])
    ids, context = ids_of(10), ids_of(21, seed=1)
    expected = logits_of(model, ids, context_ids=context)
    for t in range(10):
        changed = ids.clone()
        changed[0, t] = (changed[0, t] + 1) % VOCAB
        got = logits_of(model, changed, context_ids=context)
        assert torch.equal(got[:, :t], expected[:, :t])
        assert difference(got[:, t], expected[:, t]) > 1e-3
    for t in range(21):
        changed = context.clone()
        changed[0, t] = (changed[0, t] + 1) % VOCAB
        got = logits_of(model, ids, context_ids=changed)
        assert all(difference(got[:, i], expected[:, i]) > 1e-5 for i in range(10)), f"context token {t}"


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["shared", "copy"])
def test_gradient_checkpointing_keeps_gradients(weights):
    """Recomputing layers in the backward pass reads the same memory, whose own gradients are kept."""
    ids, context = ids_of(12, 12), ids_of(40, 40, seed=1)
    gradients = []
    for checkpointing in (False, True):
        base = tiny_base("llama")
        model = tiny_shared("llama", base=base, lower_weights=weights, split_noise=0.0).train()
        if checkpointing:
            # The method's name in transformers before 5.2x is deprecated in later ones.
            name = "activation_checkpointing_enable"
            getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()
            assert all(layer.gradient_checkpointing for layer in model.model.upper.layers)
            assert not any(layer.gradient_checkpointing for layer in base.model.layers)
        model(ids, context_ids=context, labels=ids, use_cache=False).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert all(g is not None for g in gradients[0].values()) or weights == "copy"
    for name, expected in gradients[0].items():
        assert (expected is None) == (gradients[1][name] is None), name
        assert expected is None or difference(gradients[1][name], expected) < 1e-5, name


# --- input longer than the window -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_input_splits_by_itself(side):
    """As if the last W tokens had been the running text and all before them the context, row by row."""
    model, texts = tiny_shared("llama"), random_texts([70, 10, 33, 32])
    ids, mask = pad(texts, side)
    logits = logits_of(model, ids, attention_mask=mask)
    assert logits.shape == (4, 32, VOCAB)
    running, running_mask = pad([text[-32:] for text in texts])
    context, context_mask = pad([text[:-32] for text in texts], "right")
    explicit = logits_of(
        model, running, attention_mask=running_mask, context_ids=context, context_attention_mask=context_mask
    )
    for row, text in enumerate(texts):
        n = min(32, len(text))
        assert difference(logits[row, -n:], explicit[row, -n:]) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_follow_the_split(side):
    """Loss by hand: every labelled token of the running text except the first, given everything before it."""
    model, texts = tiny_shared("llama"), random_texts([70, 10, 33])
    ids, mask = pad(texts, side)
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, -5 if side == "left" else 68] = -100
    logits, losses = logits_of(model, ids, attention_mask=mask), []
    for row, text in enumerate(texts):
        running = text[-32:]
        targets = torch.tensor(running)
        if row == 0:
            targets[-5 if side == "left" else 68 - 38] = -100
        predicted = logits[row, -len(running) : -1]
        losses.append(cross_entropy(predicted, targets[1:], reduction="none")[targets[1:] != -100])
    losses = torch.cat(losses)
    assert len(losses) == 31 + 9 + 31 - 1
    with torch.no_grad():
        mean = model(ids, attention_mask=mask, labels=labels).loss
        scaled = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=7).loss
    assert difference(mean, losses.mean()) < 1e-5
    # The caller's number counts those of the whole texts; as large a share of it is left as of them.
    whole = sum(len(text) - 1 for text in texts) - 1
    assert difference(scaled, losses.sum() / (7 * len(losses) / whole)) < 1e-5


def test_loss_of_a_batch_is_that_of_its_rows():
    """The first token of a left-padded row has nothing before it to be predicted from: its label does not count."""
    model, texts = tiny_shared("llama"), random_texts([12, 5])
    ids, mask = pad(texts)
    with torch.no_grad():
        rows = [model(torch.tensor([text]), labels=torch.tensor([text])).loss * (len(text) - 1) for text in texts]
        batch = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    assert difference(batch, sum(rows) / (11 + 4)) < 1e-5


def test_memory_fields_are_all_compared():
    """A new per-token field must be added to the tests of this file."""
    assert {f.name for f in fields(ContextMemory)} == {
        *("keys", "values", "residuals", *PER_TOKEN, "token_ids", "lengths"),
        *("chunk_size", "sources", "fingerprint"),
    }
