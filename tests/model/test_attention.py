"""Attention over a memory that is neither copied nor repeated equals attention over copies; decoding allocates little."""

from dataclasses import replace

import pytest
import torch
from combined import combined
from helpers import pad, random_texts, tiny_base, tiny_shared
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sharedllm import ContextMemory, SharedLLMForCausalLM
from sharedllm.memory import int8
from sharedllm.model import attention, kernels
from sharedllm.model import cross_attention as injection
from sharedllm.model.cache import RoomyLayer, with_room

LOWEST = torch.finfo(torch.float64).min
GREEDY = {"do_sample": False}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_copies(queries: Tensor, spans: list, scaling: float) -> Tensor:
    """The same with everything repeated for rows and heads and concatenated: softmax(q kᵀ · scaling + bias) v."""
    (batch, heads, length, _), all_keys, all_values, biases = queries.shape, [], [], []
    for keys, values, bias in spans:
        repeat = batch // len(keys), heads // keys.shape[1]
        for tensor, out in ((keys, all_keys), (values, all_values)):
            out.append(tensor.repeat_interleave(repeat[0], 0).repeat_interleave(repeat[1], 1))
        bias = queries.new_zeros(1) if bias is None else bias.repeat_interleave(batch // len(bias), 0)
        biases.append(bias.expand(batch, 1, length, keys.shape[2]))
    keys, values, bias = torch.cat(all_keys, 2), torch.cat(all_values, 2), torch.cat(biases, -1)
    weights = (queries @ keys.transpose(2, 3) * scaling + bias).softmax(-1)
    return (weights @ values).transpose(1, 2).flatten(2)


class Layer(torch.nn.Module):
    """The attributes of an attention module that `attend` uses."""

    num_key_value_groups, scaling = 2, 0.3


# Rows, texts, tokens, head size: few queries; two rows at a time; one row at a time; many.
SHAPES = {
    "few": (4, 2, 1, 64),
    "turns": (6, 2, 2, 32),
    "single": (3, 1, 1, 8),
    "many": (4, 2, 9, 8),
    "equal": (2, 2, 5, 8),
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mask", [2**25, 30], ids=["whole", "blocks"])
def test_equals_copies(monkeypatch, shape, padded, implementation, mask):
    """In values and gradients: a memory for fewer texts than rows, with and without padding, alone and joined."""
    monkeypatch.setattr(attention, "_MASK", mask)
    (rows, texts, length, dim), far_keys, near_keys = shape, 11, shape[2] + 3
    queries = draw(rows, 4, length, dim).requires_grad_()
    tensors = [draw(texts, 2, far_keys, dim, seed=i).requires_grad_() for i in (1, 2)]
    tensors += [draw(rows, 2, near_keys, dim, seed=i).requires_grad_() for i in (3, 4)]
    far_bias = torch.full((texts, 1, 1, far_keys), -0.7, dtype=torch.float64)
    near_bias = torch.zeros(rows, 1, length, near_keys, dtype=torch.float64)
    near_bias.masked_fill_(torch.ones(length, near_keys).tril(3).logical_not(), LOWEST)
    far_bias[0, ..., -4:] = near_bias[0, ..., :2] = LOWEST
    far, near = (
        (*tensors[:2], far_bias if padded else None),
        (*tensors[2:], near_bias if padded or length > 1 else None),
    )
    pairs = [
        (attention.attend_joined(Layer(), implementation, queries, far, near), by_copies(queries, [far, near], 0.3)),
        (attention.attend_to_all(implementation, queries, far, 0.3), by_copies(queries, [far], 0.3)),
    ]
    # Some queries see only the near keys.
    apart = torch.arange(rows * length).view(rows, length) % 3 == 0
    hidden = torch.zeros(rows, 1, length, far_keys, dtype=torch.float64).masked_fill(apart[:, None, :, None], LOWEST)
    spread = hidden if far[2] is None else torch.minimum(hidden, far_bias.repeat_interleave(rows // texts, 0))
    pairs.append(
        (
            attention.attend_joined(Layer(), implementation, queries, far, near, apart),
            by_copies(queries, [(*far[:2], spread), near], 0.3),
        )
    )
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
        needed = [t for t in (queries, *tensors) if t.requires_grad]
        direction = draw(*expected.shape, seed=5)
        gradients = (torch.autograd.grad((out * direction).sum(), needed, allow_unused=True) for out in (got, expected))
        for got_gradient, expected_gradient in zip(*gradients, strict=True):
            assert (got_gradient is None) == (expected_gradient is None)
            if expected_gradient is not None:
                torch.testing.assert_close(got_gradient, expected_gradient, atol=1e-6, rtol=1e-6)


def test_shapes_take_the_ways_they_are_named_for():
    few = {name: kernels.are_few((r, 4, n, d), (t, 2, 11, d)) for name, (r, t, n, d) in SHAPES.items()}
    assert few == {"few": True, "turns": False, "single": False, "many": False, "equal": False}
    assert kernels.are_few((2, 4, 2, 32), (1, 2, 11, 32)) and kernels.are_few((1, 4, 1, 8), (1, 2, 11, 8))


@pytest.mark.parametrize("heads", [4, 8])
def test_bfloat16(heads):
    """Few queries are as close to the exact result as the kernel for many, over a memory of many tokens."""
    queries = draw(1, heads, 1, 64, dtype=torch.bfloat16)
    far = (draw(1, 4, 3000, 64, seed=1, dtype=torch.bfloat16), draw(1, 4, 3000, 64, seed=2, dtype=torch.bfloat16), None)
    near = (draw(1, 4, 50, 64, seed=3, dtype=torch.bfloat16), draw(1, 4, 50, 64, seed=4, dtype=torch.bfloat16), None)
    exact = by_copies(queries.double(), [(p[0].double(), p[1].double(), None) for p in (far, near)], 0.125)
    layer = Layer()
    layer.num_key_value_groups, layer.scaling = heads // 4, 0.125
    few = attention.attend_joined(layer, "sdpa", queries, far, near)
    keys, values = (torch.cat(pair, 2) for pair in zip(far[:2], near[:2], strict=True))
    both = {
        name: attention.attend(layer, name, queries, keys, values, torch.zeros(1, dtype=torch.bfloat16))
        for name in ("sdpa", "eager")
    }
    errors = {name: float((out - exact).norm() / exact.norm()) for name, out in (both | {"few": few}).items()}
    assert few.dtype == torch.bfloat16 and errors["few"] < 1.3 * errors["eager"] < 0.02, errors


@pytest.mark.parametrize("numbers", [False, True])
def test_few_queries_over_keys_of_their_own(numbers):
    """Without gradients `attend` uses products, with the kernels' result for every kind of mask."""
    queries, keys, values = draw(2, 4, 1, 64), draw(2, 2, 300, 64, seed=1), draw(2, 2, 300, 64, seed=2)
    mask = torch.rand(2, 1, 1, 300) > 0.3
    if numbers:
        mask = queries.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(queries.dtype).min)
    layer = Layer()
    layer.num_key_value_groups, layer.scaling = 2, 0.125
    assert kernels.are_few(queries.shape, keys.shape)
    with torch.no_grad():
        products = attention.attend(layer, "sdpa", queries, keys, values, mask)
    for name in ("sdpa", "eager"):
        torch.testing.assert_close(products, attention.attend(layer, name, queries, keys, values, mask))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("numbers", [False, True])
def test_many_queries_of_grouped_heads(numbers, dtype):
    """Bit-identical to SDPA over repeated keys and values for every kind of mask, without copies."""
    queries, keys, values = (draw(2, heads, n, 64, seed=n, dtype=dtype) for heads, n in ((8, 40), (2, 300), (2, 300)))
    mask = torch.rand(2, 1, 40, 300, generator=torch.Generator().manual_seed(0)) > 0.3
    if numbers:
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, float("-inf"))
    layer = Layer()
    layer.num_key_value_groups, layer.scaling = 4, 0.125
    with Allocations() as made:
        got = attention.attend(layer, "sdpa", queries, keys, values, mask)
    repeated = (t.repeat_interleave(4, 1) for t in (keys, values))
    expected = torch.nn.functional.scaled_dot_product_attention(queries, *repeated, mask, scale=0.125)
    assert torch.equal(got, expected.transpose(1, 2).flatten(2)) and max(made.bytes) <= queries.nbytes


# --- one memory, many questions ---------------------------------------------------------------------------------------

QUESTIONS = random_texts([9, 20, 4, 13, 1])


def model_of(
    injection: str, head_dim: int, implementation: str = "sdpa", family: str = "llama"
) -> SharedLLMForCausalLM:
    base = tiny_base(family, head_dim=head_dim, attn_implementation=implementation)
    return tiny_shared(family, base=base, injection=injection, encoding="chunk")


@pytest.mark.parametrize(
    ("sizes", "implementation", "injection"),
    combined([(70, 8), (0, 8), (70, 64), (0, 64)], ["sdpa", "eager"], ["cross", "joint"]),
    ids=str,
)
def test_one_memory_for_many_questions(injection, implementation, sizes):
    """Step by step and at once, left-padded: the same as with a repeated memory, and as each question alone."""
    length, head_dim = sizes
    model, (ids, mask) = model_of(injection, head_dim, implementation), pad(QUESTIONS)
    memory = model.read(torch.tensor(random_texts([length], 1), dtype=torch.long).view(1, length))
    asked = {"max_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True, **GREEDY}
    one = model.generate(ids, attention_mask=mask, memory=memory, **asked)
    repeated = model.generate(ids, attention_mask=mask, memory=memory.repeat_interleave(5), **asked)
    torch.testing.assert_close(torch.stack(one.logits), torch.stack(repeated.logits), atol=1e-4, rtol=1e-4)
    for row, question in enumerate(QUESTIONS):
        alone = model.generate(torch.tensor([question]), memory=memory, **asked)
        assert torch.equal(one.sequences[row, 20:], alone.sequences[0, len(question) :])
    with torch.no_grad():
        whole = [model(ids, attention_mask=mask, memory=m).logits for m in (memory, memory.repeat_interleave(5))]
    torch.testing.assert_close(*whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("injection", ["cross", "joint"])
def test_gradients_of_one_memory_for_many_questions(injection):
    """Gradients flow into the memory from all rows."""
    model, (ids, mask) = model_of(injection, 8), pad(QUESTIONS)
    gradients = []
    for rows in (1, 5):
        memory = model.read(torch.tensor(random_texts([70], 1)))
        model(ids, attention_mask=mask, memory=memory.repeat_interleave(rows)).logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(float(g.abs().max()) for g in gradients[1].values())
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("injection", ["cross", "joint"])
@pytest.mark.parametrize("head_dim", [8, 64])
def test_beams_share_their_text(injection, head_dim):
    model, (ids, mask) = model_of(injection, head_dim), pad(QUESTIONS[:2])
    asked = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 3, **GREEDY}
    memory = model.read(torch.tensor(random_texts([70], 1)))
    shared = model.generate(ids, attention_mask=mask, memory=memory, **asked)
    assert torch.equal(shared, model.generate(ids, attention_mask=mask, memory=memory.repeat_interleave(2), **asked))
    prepared = model.model.prepare_memory(memory, 2).repeat_interleave(3)
    assert len(prepared) == 6
    assert all(len(t) == 1 for span in prepared.layers.values() for t in span if t is not None)


@pytest.mark.parametrize("injection", ["cross", "joint"])
@pytest.mark.parametrize("lengths", [[70], [70, 40]], ids=str)
def test_a_memory_lies_head_by_head(injection, lengths):
    """Contiguous after reading and after preparing; other layouts are converted once."""
    model = model_of(injection, 8)
    memory = model.read(*pad(random_texts(lengths), "right"))
    assert all(t.is_contiguous() for t in memory.keys + memory.values)
    values = tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in memory.values)
    for given in (memory, replace(memory, values=values)):
        prepared = model.model.prepare_memory(given)
        assert all(t.is_contiguous() for span in prepared.layers.values() for t in span[:2])


def test_a_prompt_that_overflows_goes_behind_its_own_copy():
    model, (ids, mask) = model_of("joint", 8), pad(random_texts([50, 20]))
    memory = model.read(torch.tensor(random_texts([64], 1)))
    both = [
        model.generate(ids, attention_mask=mask, memory=m, max_new_tokens=4, **GREEDY)
        for m in (memory, memory.repeat_interleave(2))
    ]
    assert torch.equal(*both)


def test_several_texts_are_as_many_as_rows():
    model = model_of("cross", 8)
    memory = model.read(torch.tensor(random_texts([40, 40], 1)))
    for given in (memory, model.model.prepare_memory(memory)):
        with pytest.raises(
            ValueError, match="the memory holds 2 texts, the batch 4: make them equal, or give one text"
        ):
            model(torch.tensor(random_texts([5] * 4)), memory=given)


# --- what a step allocates --------------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Bytes of every tensor that an operation allocates; views allocate none."""

    def __init__(self):
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        new = {t.untyped_storage() for t in tree_leaves(out) if isinstance(t, Tensor)}
        self.bytes += [storage.nbytes() for storage in new if storage.data_ptr() not in before]
        return out


def largest_of_a_step(model: SharedLLMForCausalLM, rows: int, tokens: int = 4096, padded: bool = False) -> float:
    """The largest tensor of one decoded token, as a share of the keys of one layer's memory."""
    texts = 1 if rows > 1 else 1 + padded
    rows = max(rows, texts)

    def heads(seed: int) -> Tensor:
        return draw(texts, 2, tokens, 64, seed=seed, dtype=torch.float32)

    places = torch.arange(tokens).expand(texts, -1)
    mask = torch.ones(texts, tokens, dtype=torch.bool)
    lengths = torch.full((texts,), tokens)
    if padded:
        mask[-1, tokens // 2 :], lengths[-1] = False, tokens // 2
    memory = ContextMemory(
        tuple(heads(i) for i in range(3)),
        tuple(heads(i + 3) for i in range(3)),
        mask,
        places // 16,
        places,
        torch.ones_like(places),
        torch.zeros(texts, tokens, dtype=torch.int32),
        lengths,
        16,
    )
    prepared = model.model.prepare_memory(memory, rows)
    ids, ids_mask = pad(random_texts([7, 4] * rows)[:rows])
    with torch.no_grad():
        out = model(ids, attention_mask=ids_mask, memory=prepared, use_cache=True)
        ids_mask = torch.cat([ids_mask, torch.ones(rows, 1, dtype=torch.long)], 1)
        with Allocations() as step:
            model(ids[:, :1], attention_mask=ids_mask, memory=prepared, past_key_values=out.past_key_values)
    return max(step.bytes) / memory.keys[0].nbytes


@torch.no_grad()
@pytest.mark.parametrize(("in_place", "memory_dtype"), combined([False, True], ["model", "int8"]))
def test_a_memory_is_prepared_with_little_beside_it(monkeypatch, in_place, memory_dtype):
    """Some tokens at a time: no temporary tensor is as large as a layer of the memory, and in place not even keys exist
    twice."""
    monkeypatch.setattr(injection, "_TOKENS", 16)
    monkeypatch.setattr(int8, "_NUMBERS", 256)
    model = model_of("cross", 64)
    memory = model.read(torch.tensor(random_texts([2048])), fingerprint=False)
    expected = model.model.prepare_memory(memory)
    model.config.memory_dtype = memory_dtype
    copy = memory.to("cpu")
    with Allocations() as made:
        prepared = model.model.prepare_memory(copy, in_place=in_place)
    # Cosines and sines are as large as one of the two heads.
    layer = memory.keys[0].nbytes
    large = [size for size in made.bytes if size > layer / 2]
    assert large == ([] if in_place else [layer] * len(memory.keys))
    for (keys, values, _), wanted in zip(prepared.layers.values(), expected.layers.values(), strict=True):
        if memory_dtype == "int8":
            for got, exact in zip((keys, values), wanted[:2], strict=True):
                step = exact.abs().amax(-1, keepdim=True) / 127
                assert ((got.whole() - exact).abs() <= 0.501 * step).all()
        else:
            assert torch.equal(keys, wanted[0]) and torch.equal(values, wanted[1])


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["node", "chunk"])
def test_reading_holds_nothing_twice_but_one_tensor(encoding):
    """For any number of batches: the only tensors of all kept tokens are the ones written to and their contiguous copies."""
    model = tiny_shared("llama", encoding=encoding)
    with Allocations() as made:
        memory = model.read(torch.tensor(random_texts([4096])), batch_tokens=64, fingerprint=False)
    layer = memory.keys[0].nbytes
    # Two tensors per pair, twice, one after the other.
    assert [size for size in made.bytes if size > layer / 2] == [layer] * 4 * len(memory.keys)


@pytest.mark.parametrize("injection", ["cross", "joint"])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_prompts_in_pieces_generate_the_same(injection, size):
    """transformers' `prefill_chunk_size`, which bounds the memory of a long prompt besides its cache; left-padded too."""
    model, (ids, mask) = model_of(injection, 8), pad(QUESTIONS)
    memory = model.read(torch.tensor(random_texts([64])))
    asked = {"attention_mask": mask, "memory": memory, "max_new_tokens": 6, **GREEDY}
    assert torch.equal(model.generate(ids, **asked), model.generate(ids, prefill_chunk_size=size, **asked))


@torch.no_grad()
def test_only_what_nobody_else_has_is_prepared_in_place():
    """A given memory can be asked again; a memory made from a prompt's beginning or a context may be overwritten."""
    model = model_of("cross", 8)
    memory, ids = model.read(torch.tensor(random_texts([64]))), torch.tensor(random_texts([9], 2))
    before = memory.to("cpu", torch.float64)
    context = torch.tensor(random_texts([64]))
    outputs = [
        model.generate(ids, memory=memory, max_new_tokens=4, **GREEDY),
        model.generate(ids, context_ids=context, max_new_tokens=4, **GREEDY),
        model.generate(torch.cat([context, ids], 1), memory=memory, max_new_tokens=4, **GREEDY)[:, 64:],
    ]
    assert torch.equal(outputs[0], outputs[1]) and outputs[2].shape == outputs[0].shape
    torch.testing.assert_close(model(ids, context_ids=context).logits, model(ids, memory=memory).logits)
    assert all(torch.equal(a, b.double()) for a, b in zip(before.keys, memory.keys, strict=True))


@pytest.mark.parametrize(
    ("texts", "implementation", "injection"),
    combined([(1, False), (1, True), (8, False)], ["sdpa", "eager"], ["cross", "joint"]),
    ids=str,
)
def test_a_step_makes_nothing_as_large_as_a_layer_of_the_memory(texts, implementation, injection):
    rows, padded = texts
    assert largest_of_a_step(model_of(injection, 64, implementation), rows, padded=padded) < 0.3


@torch.no_grad()
@pytest.mark.parametrize("injection", ["cross", "joint"])
def test_text_behind_a_cache_repeats_no_keys(injection):
    """Pieces of a long text, where only some layers read a memory: two of eight heads have keys, which are not repeated."""
    base = tiny_base("llama", num_attention_heads=8, head_dim=64, max_position_embeddings=512)
    model = tiny_shared("llama", base=base, injection=injection, encoding="chunk", window=512)
    ids, cache = torch.tensor(random_texts([512])), with_room(None, base.config, 512)
    memory = model.model.prepare_memory(model.read(torch.tensor(random_texts([64]))))
    model(ids[:, :-32], memory=memory, past_key_values=cache)
    with Allocations() as made:
        model(ids[:, -32:], memory=memory, past_key_values=cache, logits_to_keep=1)
    layer = cache.layers[0]
    assert isinstance(layer, RoomyLayer) and layer.keys is not None
    assert max(made.bytes) < 2 * layer.keys.nbytes


def test_copies_of_the_memory_are_counted(monkeypatch):
    """The check above finds the mistake that it is for."""
    monkeypatch.setattr(kernels, "are_few", lambda queries, keys: False)
    assert largest_of_a_step(model_of("joint", 64), 1) > 1
