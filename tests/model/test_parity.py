"""The fast path equals the slow reference in values and gradients of all parameters; the reference equals
transformers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from combined import combined, rarely
from helpers import FAMILIES, pad, random_texts, tiny_base, tiny_shared
from torch import Tensor, nn
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from sharedllm import SharedLLMForCausalLM, reference
from sharedllm.reference import reference_logits, reference_memory

ENCODINGS = ("node", "chunk")
POLICIES = ("right", "cosine")
# Pairs of different layers in both directions, including the last upper layer, and one pair of equal layers.
MAPS = {"default": None, "mixed": [[2, 0], [1, 1], [0, 3]], "only_different": [[0, 2], [2, 3]]}

# Around the chunk size of 16: no tokens, one, two (one level of splits), C ± 1, and not a multiple of C.
CONTEXT_LENGTHS = [0, 1, 16, 2, 15, 17, 45]
RUNNING_LENGTHS = [6, 4, 1, 3, 7, 2, 5]
QUERY_LENGTHS = [3, 1, 5, 2, 7, 4, 6]
# Rows for what is about neither families nor lengths: no context, one split, a chunk and one token, three chunks.
FEW = [0, 3, 5, 6]


@dataclass
class Batch:
    """Texts as lists of ids, and as arguments of the fast path."""

    running: list[list[int]]
    contexts: list[list[int]]
    queries: list[list[int]]
    context_side: str = "right"
    tensors: dict[str, Tensor] = field(init=False)

    def __post_init__(self):
        self.tensors = {}
        sides = {"input_ids": (self.running, "left"), "context_ids": (self.contexts, self.context_side)}
        sides["query_ids"] = (self.queries, "left")
        for name, (texts, side) in sides.items():
            mask_name = "attention_mask" if name == "input_ids" else name.replace("_ids", "_attention_mask")
            self.tensors[name], self.tensors[mask_name] = pad(texts, side)


def ragged_batch(seed: int = 0, context_side: str = "right") -> Batch:
    lengths = (RUNNING_LENGTHS, CONTEXT_LENGTHS, QUERY_LENGTHS)
    return Batch(*(random_texts(n, 3 * seed + i) for i, n in enumerate(lengths)), context_side)


def few_rows() -> Batch:
    """Rows of all kinds, but not of all lengths: the reference goes over them token by token, forward and back."""
    whole = ragged_batch()
    return Batch(*([texts[row] for row in FEW] for texts in (whole.running, whole.contexts, whole.queries)))


def fast_logits(model: SharedLLMForCausalLM, batch: Batch) -> list[Tensor]:
    """Logits (L, V) of each running text, without its padding."""
    logits = model(**batch.tensors).logits
    assert torch.isfinite(logits).all(), "NaN or infinity, padding included"
    return [row[-len(text) :] for row, text in zip(logits, batch.running, strict=True)]


def slow_logits(model: SharedLLMForCausalLM, batch: Batch, epsilons: list[float] | None = None) -> list[Tensor]:
    texts = zip(batch.running, batch.contexts, batch.queries, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_run", remembering(reference._run))
        return [reference_logits(model, *text, epsilons=epsilons) for text in texts]


def remembering(run: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """The reference's `_run`, which runs over a chunk again for each of its nodes, once for each span."""
    known = {}

    def call(model: SharedLLMForCausalLM, layers: nn.ModuleList, ids: list[int], depth: int) -> list[Tensor]:
        asked = id(layers), tuple(ids), depth, torch.is_grad_enabled()
        if asked not in known:
            known[asked] = run(model, layers, ids, depth)
        return known[asked]

    return call


def gradients(model: SharedLLMForCausalLM, logits: list[Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Gradients of a random linear functional of the logits, without parameters that it doesn't depend on."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(row.shape, generator=generator, dtype=torch.float64).to(row.dtype) for row in logits]
    model.zero_grad(set_to_none=True)
    sum((row * direction).sum() for row, direction in zip(logits, directions, strict=True)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative_error(got: Tensor, expected: Tensor, scale: float = 0.0) -> float:
    """Largest difference as a share of the largest expected value, or of `scale` if that is larger."""
    assert got.shape == expected.shape
    assert torch.isfinite(got).all() and torch.isfinite(expected).all()
    return float((got - expected).detach().abs().max()) / max(float(expected.detach().abs().max()), scale)


def assert_equal_gradients(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, floor: float) -> None:
    """The same parameters have gradients, and the gradients are equal.

    Args:
        floor: errors are taken relative to the parameter's largest gradient or to this share of the largest gradient
            of all, if that is larger: a gradient that is a small sum of large terms carries their rounding.
    """
    assert got.keys() == expected.keys()
    scale = floor * max(float(g.abs().max()) for g in expected.values())
    for name in expected:
        assert relative_error(got[name], expected[name], scale) < tolerance, f"gradient of {name}"


def assert_parity(model: SharedLLMForCausalLM, batch: Batch, fast: list[Tensor] | None = None) -> None:
    """Fast path (`fast`, if computed already) and reference agree in all logits and the gradients of all parameters.

    A float64 model needs the fixture `float64_norms`.
    """
    fast, slow = fast_logits(model, batch) if fast is None else fast, slow_logits(model, batch)
    double = slow[0].dtype == torch.float64
    for row, (got, expected) in enumerate(zip(fast, slow, strict=True)):
        assert relative_error(got, expected) < (1e-10 if double else 1e-5), f"logits of text {row}"
    got, expected = gradients(model, fast), gradients(model, slow)
    if not double:
        assert_equal_gradients(got, expected, tolerance=1e-4, floor=5e-2)
        return
    # Gates are float32 until they are multiplied, so their gradients are rounded to float32.
    gates = {name for name in expected if name.endswith(".gate")}
    assert_equal_gradients(
        {n: g for n, g in got.items() if n not in gates},
        {n: g for n, g in expected.items() if n not in gates},
        tolerance=1e-9,
        floor=1e-6,
    )
    assert_equal_gradients(got, expected, tolerance=1e-6, floor=1e-6)


@pytest.fixture
def float64_norms(monkeypatch):
    """RMSNorm that keeps its dtype throughout: transformers' rounds to float32, which hides small mistakes."""

    def forward(self: nn.Module, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", forward)
    monkeypatch.setattr(modeling_mistral.MistralRMSNorm, "forward", forward)
    monkeypatch.setattr(modeling_qwen2.Qwen2RMSNorm, "forward", forward)
    monkeypatch.setattr(modeling_qwen3.Qwen3RMSNorm, "forward", forward)


# --- the reference alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_without_context_is_the_base_model(family):
    base = tiny_base(family)
    (text,) = random_texts([20])
    with torch.no_grad():
        expected = base(torch.tensor([text])).logits[0]
        assert relative_error(reference_logits(tiny_shared(family, base=base), text, []), expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_context_matters(family):
    """Without this, the tests below could compare nothing with nothing."""
    model = tiny_shared(family)
    (text, context) = random_texts([10, 40])
    with torch.no_grad():
        without, with_context = (reference_logits(model, text, c) for c in ([], context))
        changed = reference_logits(model, text, [(context[0] + 1) % 101, *context[1:]])
    assert relative_error(with_context, without) > 0.1
    assert relative_error(changed, with_context) > 1e-3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cosine_goes_both_ways(encoding):
    """The batches below contain trees that differ from those of the policy "right" and trees that don't."""
    right, similar = (tiny_shared("llama", encoding=encoding, selection=policy) for policy in POLICIES)
    batch = ragged_batch()
    with torch.no_grad():
        same = [
            reference_memory(right, context).position == reference_memory(similar, context, query).position
            for context, query in zip(batch.contexts, batch.queries, strict=True)
            if len(context) > 2
        ]
    assert set(same) == {True, False}


# --- fast path against reference --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "encoding", "selection"), combined(FAMILIES, ENCODINGS, POLICIES))
def test_families(family, encoding, selection):
    """Every family with contexts of different lengths, left-padded running texts and queries."""
    assert_parity(tiny_shared(family, encoding=encoding, selection=selection), ragged_batch())


# Copied weights with every map are slow; the default map tests them always.
OFTEN = [("default", "copy"), ("mixed", "shared"), ("only_different", "shared")]


@pytest.mark.parametrize(
    ("layers", "kind", "encoding"),
    combined(
        [*OFTEN, ("mixed", "copy"), ("only_different", "copy")],
        [("qwen2", "right"), ("qwen3", "cosine")],
        ENCODINGS,
        fast=OFTEN.__contains__,
    ),
    ids=str,
)
@pytest.mark.usefixtures("float64_norms")
def test_injection_maps_and_lower_weights(layers, kind, encoding):
    (injection_map, lower_weights), (family, selection) = layers, kind
    model = tiny_shared(
        family,
        encoding=encoding,
        selection=selection,
        injection_map=MAPS[injection_map],
        lower_weights=lower_weights,
    )
    assert_parity(model.double(), few_rows())


@pytest.mark.parametrize(("lower_layers", "selection"), combined([1, 2, 4], POLICIES))
@pytest.mark.usefixtures("float64_norms")
def test_lower_depths(lower_layers, selection):
    """One lower layer needs no attention at all, two need only the samples; four are the whole model."""
    assert_parity(tiny_shared("qwen3", lower_layers=lower_layers, selection=selection).double(), few_rows())


CHANGES = [
    {"keep": "first"},
    {"key_position": "offset"},
    {"score_scaling": "log"},
    {"start": "zero"},
    {"start": "random"},
    {"injection": "joint"},
    {"injection": "joint", "key_position": "offset"},
    {"injection": "joint", "score_scaling": "log"},
    {"injection": "joint", "reach": 1},
    {"injection": "joint", "anchor": True},
]


@pytest.mark.parametrize(("change", "encoding"), combined(CHANGES, ENCODINGS), ids=str)
@pytest.mark.usefixtures("float64_norms")
def test_variants(change, encoding):
    """Settings that differ from the paper, or follow its code where we don't."""
    batch, same = few_rows(), {"encoding": encoding, "window": 16}
    model = tiny_shared("llama", **same, **change).double()
    assert_parity(model, batch)
    plain = fast_logits(tiny_shared("llama", **same).double(), batch)
    changed = fast_logits(model, batch)
    assert max(relative_error(a, b) for a, b in zip(changed, plain, strict=True)) > 1e-3


@pytest.mark.parametrize(("overlap", "selection"), combined([5, 1, 16, 40], POLICIES, fast=(5, 40).__contains__))
@pytest.mark.usefixtures("float64_norms")
def test_overlap(overlap, selection):
    """Less than a chunk, one, and more than two; the first chunk has nothing before it."""
    assert_parity(tiny_shared("llama", encoding="chunk", overlap=overlap, selection=selection).double(), few_rows())


@pytest.mark.parametrize(("family", "implementation"), combined(FAMILIES, ["sdpa", "eager"]))
def test_joint_softmax(family, implementation):
    """Every family, padded, with separate projections, also in a sliding window."""
    sliding = {"sliding_window": 16} if family == "mistral" else {}
    base = tiny_base(family, attn_implementation=implementation, **sliding)
    assert_parity(tiny_shared(family, base=base, injection="joint", injection_map=MAPS["mixed"]), few_rows())


@pytest.mark.parametrize("strides", [[16, 8], [5, 3, 2, 1], *rarely([1], [3, 3], [8, 4, 2, 1, 1, 1])])
@pytest.mark.usefixtures("float64_norms")
def test_trees(strides):
    """Strides that don't divide the node's length, or are longer, and trees deeper than a chunk can be split."""
    assert_parity(tiny_shared("llama", strides=strides, selection="cosine").double(), few_rows())


@pytest.mark.parametrize(("family", "length"), combined(FAMILIES, [0, 1, 15, 16, 17, 45]))
@pytest.mark.usefixtures("float64_norms")
def test_batch_of_one(family, length):
    batch = Batch(*(random_texts([n], seed) for seed, n in enumerate((12, length, 5))))
    assert_parity(tiny_shared(family, selection="cosine").double(), batch)


@pytest.mark.parametrize("selection", POLICIES)
def test_left_padded_contexts(selection):
    assert_parity(tiny_shared("llama", selection=selection), ragged_batch(context_side="left"))


def test_running_text_is_the_query_when_there_is_none():
    model, batch = tiny_shared("llama", selection="cosine"), ragged_batch()
    batch.queries = batch.running
    del batch.tensors["query_ids"], batch.tensors["query_attention_mask"]
    assert_parity(model, batch)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_eager_attention(encoding):
    model = tiny_shared("qwen3", base=tiny_base("qwen3", attn_implementation="eager"), encoding=encoding)
    assert_parity(model, few_rows())


@pytest.mark.parametrize("selection", ["cosine", *rarely("right")])
def test_sliding_window(selection):
    """Running text, here longer than the base's sliding window, and queries see exactly what the base's layers allow."""
    base = tiny_base("mistral", sliding_window=16)
    batch = Batch(*(random_texts(n, seed) for seed, n in enumerate(([30, 20, 25], [64, 60, 64], [25, 30, 20]))))
    assert_parity(tiny_shared("mistral", base=base, selection=selection), batch)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | {"original_max_position_embeddings": 16},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scaled_rope(rope):
    base = tiny_base("llama", rope_parameters={"rope_theta": 10_000.0} | rope)
    assert_parity(tiny_shared("llama", base=base), few_rows())


@pytest.mark.usefixtures("float64_norms")
def test_biased_output_projection():
    """A text without context adds nothing, not even a bias."""
    base = tiny_base("llama", attention_bias=True)
    assert_parity(tiny_shared("llama", base=base).double(), few_rows())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_many_chunks(encoding):
    """Many chunk positions, far from 0, in a batch with few."""
    batch = Batch(random_texts([5, 6], 0), random_texts([150, 20], 1), random_texts([3, 3], 2))
    assert_parity(tiny_shared("llama", encoding=encoding), batch)


@pytest.mark.parametrize(("encoding", "selection"), combined(ENCODINGS, POLICIES))
def test_memory(encoding, selection):
    """The kept tokens, one by one, before any is read."""
    model = tiny_shared("qwen3", encoding=encoding, selection=selection, injection_map=MAPS["mixed"])
    batch = ragged_batch()
    with torch.no_grad():
        memory = model.read(**{n: t for n, t in batch.tensors.items() if n.startswith(("context", "query"))})
        for row, (context, query) in enumerate(zip(batch.contexts, batch.queries, strict=True)):
            expected = reference_memory(model, context, query)
            kept = len(expected.position)
            assert memory.mask[row].tolist() == [True] * kept + [False] * (memory.mask.shape[1] - kept)
            assert memory.position[row, :kept].tolist() == expected.position
            assert memory.chunk[row, :kept].tolist() == expected.chunk
            for pair, (keys, values) in enumerate(expected.pairs):
                assert relative_error(memory.keys[pair][row, :, :kept].transpose(0, 1), keys) < 1e-5
                assert relative_error(memory.values[pair][row, :, :kept].transpose(0, 1), values) < 1e-5


@pytest.mark.parametrize("batch_tokens", [1, 20])
def test_bounded_lower_batches(batch_tokens):
    """Reading few tokens at a time gives the same values and gradients."""
    model, batch = tiny_shared("llama", selection="cosine"), few_rows()
    memory = model.read(
        **{n: t for n, t in batch.tensors.items() if n.startswith(("context", "query"))},
        batch_tokens=batch_tokens,
        gradients=True,
    )
    running = {n: batch.tensors[n] for n in ("input_ids", "attention_mask")}
    logits = model(**running, memory=memory).logits
    assert_parity(model, batch, [row[-len(text) :] for row, text in zip(logits, batch.running, strict=True)])


@pytest.mark.parametrize("seed", [0, *rarely(1, 2, 3)])
def test_split_noise(seed):
    """In training each level draws one ε / l, shared by all trees of the batch."""
    model, batch = tiny_shared("llama", selection="cosine", split_noise=0.2).train(), ragged_batch(seed)
    torch.manual_seed(seed)
    epsilons = [float(torch.randn(())) * model.config.split_noise for _ in model.config.strides]
    torch.manual_seed(seed)
    with torch.no_grad():
        fast, slow = fast_logits(model, batch), slow_logits(model, batch, epsilons)
        straight = slow_logits(model, batch)
    assert max(map(relative_error, fast, slow)) < 1e-5
    assert max(map(relative_error, fast, straight)) > 1e-3


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "encoding"), combined(FAMILIES, ENCODINGS, fast=("mistral", "qwen3").__contains__))
def test_bfloat16(family, encoding):
    """In bfloat16 the fast path is as close to the exact result as the reference in bfloat16 is.

    The exact result is the reference in float32 with the same weights, which are representable in bfloat16.
    """
    base = tiny_base(family, dtype=torch.bfloat16, initializer_range=0.2)
    model, batch = tiny_shared(family, base=base, encoding=encoding), few_rows()
    exact_model = copy.deepcopy(model).float()
    fast, slow, exact = fast_logits(model, batch), slow_logits(model, batch), slow_logits(exact_model, batch)
    assert all(row.dtype == torch.bfloat16 for row in fast + slow)
    assert rounding(fast, exact) < 1.3 * rounding(slow, exact) < 0.13
    exact_gradients = gradients(exact_model, exact)
    fast_gradients, slow_gradients = gradients(model, fast), gradients(model, slow)
    assert fast_gradients.keys() == slow_gradients.keys() == exact_gradients.keys()
    fast, slow, exact = (list(g.values()) for g in (fast_gradients, slow_gradients, exact_gradients))
    assert rounding(fast, exact) < 1.3 * rounding(slow, exact) < 0.13


def rounding(got: list[Tensor], exact: list[Tensor]) -> float:
    """Mean over tensors of the root mean square error, as a share of the exact tensor's root mean square."""
    assert all(torch.isfinite(g).all() for g in got)
    shares = [(g.float() - e).norm() / e.norm() for g, e in zip(got, exact, strict=True)]
    return float(sum(shares).detach() / len(shares))
