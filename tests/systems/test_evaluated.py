"""Systems in evaluation: each equals a slow reference, or the base if both see the same."""

import pytest
import torch
from combined import FEW, kinds
from helpers import byte_tokenizer, random_texts, tiny_base, tiny_shared
from transformers import AutoTokenizer

from sharedllm import bundled_model
from sharedllm.model.families import FAMILIES as TABLE
from sharedllm.reference import _attention, _heads, _rotate
from sharedllm.systems.beacon import BeaconForCausalLM
from sharedllm.systems.cepe import CepeForCausalLM
from sharedllm.systems.evaluated import Scores, evaluated_names, make_evaluated, name_of_trained
from sharedllm.systems.full import SCALINGS, Full
from sharedllm.systems.retrieval import Retrieval
from sharedllm.systems.sharedllm.evaluated import Empty, Shared
from sharedllm.systems.streaming import Streaming
from sharedllm.systems.window import Window

NO_QUERY = torch.zeros(1, 0, dtype=torch.long)


def ids_of(length: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.tensor(random_texts([length] * rows, seed))


@torch.no_grad()
def scores(method, far: torch.Tensor, running: torch.Tensor, targets: int) -> Scores:
    return method.score(method.prepare(far, NO_QUERY.expand(len(running), 0)), running, targets)


def expected(model, text: torch.Tensor, targets: int) -> torch.Tensor:
    """Log-probabilities of the last tokens by one ordinary forward pass."""
    with torch.no_grad():
        logits = torch.log_softmax(model(text).logits.float(), -1)
    return logits[:, -targets - 1 : -1].gather(-1, text[:, -targets:, None])[..., 0]


@pytest.mark.parametrize("family", kinds(TABLE))
def test_window_and_full_are_the_base(family):
    model, far, running = tiny_base(family), ids_of(37, 2), ids_of(12, 2, 1)
    got = scores(Window(model, 12), far, running, 5)
    torch.testing.assert_close(got.log_probs, expected(model, running, 5))
    everything = torch.cat([far, running], 1)
    for block in (5, 4096):
        got = scores(Full(model, 64, block=block), far, running, 5)
        torch.testing.assert_close(got.log_probs, expected(model, everything, 5), atol=1e-5, rtol=1e-5)
        hits = model(everything).logits[:, -6:-1].argmax(-1) == running[:, -5:]
        assert torch.equal(got.hits, hits)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_full_scores_again_what_a_sliding_window_no_longer_sees(family):
    """The first score reads more than the sliding window."""
    model, far = tiny_base(family), ids_of(60, seed=1)
    method = Full(model, 128, block=16)
    state = method.prepare(far, NO_QUERY)
    for running in (ids_of(40), ids_of(12)):
        got = method.score(state, running, 5)
        wanted = expected(model, torch.cat([far, running], 1), 5)
        torch.testing.assert_close(got.log_probs, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_positions(name):
    """Scaled by a power of two if the text is longer than the window, else not at all; afterwards the model is unchanged."""
    model, running = tiny_base("llama"), ids_of(12)
    method = Full(model, 16, name, SCALINGS[name])
    short = scores(method, ids_of(4, seed=1)[:, :0], running, 5)
    torch.testing.assert_close(short.log_probs, expected(model, running, 5))
    far = ids_of(40, seed=1)
    state = method.prepare(far, NO_QUERY)
    assert state[1] == 4
    first, again = (method.score(state, running, 5).log_probs for _ in range(2))
    assert torch.equal(first, again), "scoring does not change the state"
    plain = expected(model, torch.cat([far, running], 1), 5)
    assert torch.allclose(first, plain, atol=1e-5) == (name == "full")


def test_interpolated_positions_are_those_of_transformers():
    """One pass of a model created with the scaling gives the same."""
    far, running = ids_of(40, seed=1), ids_of(12)
    for scaling in ("linear", "yarn"):
        rope = {"rope_type": scaling, "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0}
        scaled = tiny_base("llama", rope_parameters=rope)
        got = scores(Full(tiny_base("llama"), 16, "x", scaling, block=7), far, running, 5)
        torch.testing.assert_close(
            got.log_probs, expected(scaled, torch.cat([far, running], 1), 5), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", kinds(TABLE, ("llama", *FEW)))
def test_streaming_is_the_base_while_nothing_is_dropped(family):
    model, far, running = tiny_base(family), ids_of(20, 2), ids_of(17, 2, 1)
    got = scores(Streaming(model, window=64, block=8), far, running, 9)
    torch.testing.assert_close(got.log_probs, expected(model, torch.cat([far, running], 1), 9), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [8, 32, 64, 68, 512])
def test_streaming_never_holds_more_than_its_window(window):
    model = tiny_base("llama")
    made = make_evaluated("streaming", None, model, byte_tokenizer(), window)
    cache = made.prepare(ids_of(300, 1), ids_of(1, 1))
    assert cache is not None and cache[0][0].shape[2] <= window - made.block < window
    with pytest.raises(ValueError, match="a window of 5 is too small"):
        make_evaluated("streaming", None, model, byte_tokenizer(), 5)


@pytest.mark.parametrize("block", [1, 4])
@torch.no_grad()
def test_streaming_equals_slow_loops(block):
    """Token by token over explicit caches of unrotated keys; sinks and recent tokens, at positions in the cache."""
    model, window, sinks = tiny_base("llama"), 16, 2
    shared = tiny_shared("llama", base=model)
    text, caches, logits = ids_of(44)[0].tolist(), [[] for _ in model.model.layers], []
    for start in range(0, len(text), block):
        piece = text[start : start + block]
        hidden = model.model.embed_tokens(torch.tensor(piece))
        for layer, cache in zip(model.model.layers, caches, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(hidden)
            queries, keys, values = (
                _heads(projection(normed), attention.head_dim)
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            before = len(cache)
            cache.extend(zip(keys, values, strict=True))
            all_keys = _rotate(shared, torch.stack([k for k, _ in cache]), list(range(len(cache))))
            places = [before + i for i in range(len(piece))]
            visible = [range(place + 1) for place in places]
            attended = _attention(
                _rotate(shared, queries, places), all_keys, torch.stack([v for _, v in cache]), visible
            )
            hidden = hidden + attention.o_proj(attended)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            while len(cache) > window - block:
                del cache[sinks]
        logits.append(model.lm_head(model.model.norm(hidden)))
    log_probs = torch.log_softmax(torch.cat(logits), -1)
    wanted = torch.tensor([log_probs[i - 1, text[i]] for i in range(len(text) - 12, len(text))])
    ids = torch.tensor([text])
    # The running text begins at a block border, as in the loops.
    got = scores(Streaming(model, window, sinks=sinks, block=block), ids[:, :24], ids[:, 24:], 12)
    torch.testing.assert_close(got.log_probs[0], wanted, atol=1e-5, rtol=1e-5)


def test_shared_and_its_control():
    model, far, running = tiny_shared("llama"), ids_of(40, 2), ids_of(20, 2, 1)
    with torch.no_grad():
        whole = torch.log_softmax(model(running, context_ids=far).logits, -1)[:, -6:-1]
    got = scores(Shared(model), far, running, 5)
    torch.testing.assert_close(got.log_probs, whole.gather(-1, running[:, -5:, None])[..., 0], atol=1e-5, rtol=1e-5)
    alone = scores(Empty(model), far, running, 5)
    assert not torch.allclose(got.log_probs, alone.log_probs, atol=1e-3)
    torch.testing.assert_close(scores(Shared(model), far[:, :0], running, 5).log_probs, alone.log_probs)


def test_other_strides():
    """The model's own are unchanged."""
    model, far, running = tiny_shared("llama"), ids_of(40), ids_of(20, seed=1)
    fine = scores(Shared(model, strides=(1, 1, 1)), far, running, 5).log_probs
    assert model.config.strides == [4, 2, 1]
    assert not torch.allclose(fine, scores(Shared(model), far, running, 5).log_probs, atol=1e-3)
    model.config.strides = [1, 1, 1]
    assert torch.equal(fine, scores(Shared(model), far, running, 5).log_probs)


def test_retrieval_brings_what_is_asked_for():
    """The piece that shares the query's words is in the window; a text that fits is there whole."""
    pytest.importorskip("bm25s")
    tokenizer = AutoTokenizer.from_pretrained(bundled_model("base"))
    model = tiny_base("llama", vocab_size=len(tokenizer), max_position_embeddings=256)
    filler = "The river went on and on below the grey houses, and nobody looked. " * 40
    fact = "The secret code of the silver falcon is 48213. "
    encode = lambda text: torch.tensor(tokenizer.encode(text, add_special_tokens=False))  # noqa: E731
    far = torch.cat([encode(filler), encode(fact), encode(filler)])[None]
    query = encode("What is the secret code of the silver falcon?")[None]
    method = Retrieval(model, tokenizer, window=256)
    assert method.running == 128
    (found,) = method.prepare(far, query)
    assert len(found) <= 128 and "48213" in tokenizer.decode(found)
    (short,) = method.prepare(far[:, :100], query)
    assert torch.equal(short, far[0, :100])
    for text, question in (
        (far, encode("{ } ; ( )")[None]),
        (encode("{ } ; " * 300)[None], query),
    ):  # no word to rank by
        (near,) = method.prepare(text, question)
        assert torch.equal(near, text[0, -len(near) :])
    small = Retrieval(model, tokenizer, window=64)  # half of it is less than a piece
    (found_small,) = small.prepare(far, query)
    assert 0 < len(found_small) <= 32 and "falcon" in tokenizer.decode(found_small)
    assert len(method.best(method.index(far[0]), query[0], 256)) == 0, "no piece fits"
    running = far[:, :60]
    got = method.score([found], running, 7)
    text = torch.cat([found[None], running], 1)
    torch.testing.assert_close(got.log_probs, expected(model, text, 7), atol=1e-5, rtol=1e-5)


def test_names():
    model = tiny_base("llama")
    tokenizer = AutoTokenizer.from_pretrained(bundled_model("base"))
    shared = tiny_shared("llama")
    trained = {
        "tuned": model,
        "cepe": CepeForCausalLM.from_base(model, window=32, chunk_size=8),
        "beacon": BeaconForCausalLM.from_base(model, window=32),
    }
    for name in [
        *(set(evaluated_names()) - {"budget"}),
        "budget:bm25@64",
        "sharedllm:similarity",
        "sharedllm@4/2/1",
        "sharedllm:similarity@1",
    ]:
        assert make_evaluated(name, shared, model, tokenizer, 32, trained).name == name
    assert {name: name_of_trained(model) for name, model in trained.items()} == {name: name for name in trained}
    for name in ("best", "window:right", "budget", "budget:best@64"):
        with pytest.raises(ValueError, match=f"systems='{name}' is not known"):
            make_evaluated(name, shared, model, tokenizer, 32)
    with pytest.raises(ValueError, match="needs a model: give base=NAME"):
        make_evaluated("yarn", shared, None, tokenizer, 32)
