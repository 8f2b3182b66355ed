"""Memories held in 8 bits: products equal those of the dequantised numbers, and a model generates over them as over its
own."""

import pytest
import torch
from combined import combined
from helpers import pad, random_texts, tiny_base, tiny_shared
from torch import Tensor

from sharedllm.memory.int8 import Int8Keys, Int8Values
from sharedllm.model.attention import attend_joined, attend_to_all, in_full
from sharedllm.model.kernels import attend_few

TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 0.01}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Layer(torch.nn.Module):
    """The attributes of a layer that attention uses."""

    num_key_value_groups, scaling = 2, 0.3


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("dim", [8, 24, 16, 64])
@pytest.mark.parametrize("tokens", [1, 16, 37, 160])
def test_products_are_those_of_the_numbers_brought_back(dtype, dim, tokens):
    """With the kernel, if head size and tokens are multiples of 16 after padding, and without it."""
    keys, values = draw(2, 3, tokens, dim, dtype=dtype), draw(2, 3, tokens, dim, seed=1, dtype=dtype)
    queries, weights = draw(2, 3, 5, dim, seed=2, dtype=dtype), draw(2, 3, 5, tokens, seed=3).softmax(-1).to(dtype)
    held = Int8Keys.of(keys), Int8Values.of(values)
    assert held[0].codes.dtype == held[1].codes.dtype == torch.int8
    for ours, theirs in zip((held[0].whole(), held[1].whole()), (keys, values), strict=True):
        step = theirs.float().abs().amax(-1, keepdim=True) / 127
        rounding = theirs.float().abs() * 2 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-6
        assert ours.shape == theirs.shape and ((ours.float() - theirs.float()).abs() <= 0.5001 * step + rounding).all()
    exact = queries.double() @ held[0].whole().double().transpose(2, 3), weights.double() @ held[1].whole().double()
    for ours, theirs in zip((held[0].scores(queries), held[1].sums(weights)), exact, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() <= TOLERANCES[dtype] * theirs.norm()


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("length", [1, 9])
def test_attention_takes_them_for_few_queries_and_for_many(rows, length):
    far = Int8Keys.of(draw(2, 2, 100, 64)), Int8Values.of(draw(2, 2, 100, 64, seed=1)), draw(2, 1, 1, 100, seed=2)
    near = draw(rows, 2, 5, 64, seed=3), draw(rows, 2, 5, 64, seed=4), None
    queries = draw(rows, 4, length, 64, seed=5)
    alone, joined = (attend_few(queries, spans, 0.3) for spans in ([in_full(far)], [in_full(far), near]))
    torch.testing.assert_close(attend_to_all("sdpa", queries, far, 0.3), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attend_joined(Layer(), "sdpa", queries, far, near), joined, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "injection"), combined([torch.float32, torch.bfloat16], ["cross", "joint"]), ids=str)
def test_a_model_writes_over_a_memory_in_8_bits(injection, dtype):
    """Logits are close to those over the original numbers, but not equal; folded text is held in the same format."""
    model = tiny_shared(
        "llama", base=tiny_base("llama", head_dim=64, dtype=dtype), injection=injection, encoding="chunk"
    )
    memory = model.read(torch.tensor(random_texts([70, 70])).view(2, 70))
    ids, mask = pad(random_texts([9, 4]))
    asked = {"attention_mask": mask, "max_new_tokens": 40, "do_sample": False, "output_logits": True}
    logits = {}
    for held in ("model", "int8"):
        model.config.memory_dtype = held
        with torch.no_grad():
            prepared = model.model.prepare_memory(memory)
            logits[held] = model(ids, attention_mask=mask, memory=prepared).logits[mask.bool()]
        assert all((type(k), type(v)) == ((Tensor,) * 2 if held == "model" else (Int8Keys, Int8Values))
                   for k, v, _ in prepared.layers.values())  # fmt: skip
        out = model.generate(ids, memory=memory, return_dict_in_generate=True, **asked)
        assert out.sequences.shape == (2, 9 + 40) and out.logits[-1].isfinite().all()
    spread = logits["model"].float().std()
    off = (logits["int8"] - logits["model"]).float().pow(2).mean().sqrt()
    assert 0 < off < 0.1 * spread


def test_training_goes_by_the_numbers_themselves():
    model = tiny_shared("llama", memory_dtype="int8")
    ids = torch.tensor(random_texts([9]))
    memory = model.read(torch.tensor(random_texts([40])))
    loss = model(ids, memory=memory, labels=ids).loss
    model.config.memory_dtype = "model"
    assert torch.equal(loss, model(ids, memory=memory, labels=ids).loss)
    loss.backward()
    assert model.model.upper.layers[0].self_attn.k_proj.weight.grad.abs().sum() > 0


def test_it_does_not_change_what_a_memory_is():
    model = tiny_shared("llama")
    before = model.fingerprint()
    model.config.memory_dtype = "int8"
    assert model.fingerprint() == before
