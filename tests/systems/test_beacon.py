"""Activation Beacon equals a slow version: one row, one token after the other, beacons in their places."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import pad, perturb, random_texts, tiny_base
from transformers import AutoModelForCausalLM

from sharedllm.model.families import family_of
from sharedllm.model.rope import rotate, rotation
from sharedllm.systems.beacon import BeaconConfig, BeaconForCausalLM
from sharedllm.training.parts import part_of


def tiny_beacon(family="llama", **settings):
    model = BeaconForCausalLM.from_base(tiny_base(family), **{"window": 24, "stride": 8} | settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        perturb([p for n, p in model.named_parameters() if "beacon" in n], 0.2)
    return model.eval()


def slow_logits(model, text: list[int], ratio: int, before: list[int] | None = None):
    """Logits (L, V) of one text, its windows cut from the end; α is fixed. `before`: a preceding text, which is
    condensed whole."""
    family, config, layers = family_of(model.model.config), model.config, model.model.layers
    memory = [[] for _ in layers]  # (key before RoPE, value), each (G, D)
    sinks, logits = 0, []

    def windows(tokens):
        first = len(tokens) % config.stride or min(config.stride, len(tokens))
        cuts = [0, *range(first, len(tokens) + 1, config.stride)]
        return [tokens[a:b] for a, b in pairwise(cuts)]

    pieces = [(piece, True) for piece in windows(before or [])] + [(piece, True) for piece in windows(text)]
    pieces[-1] = (pieces[-1][0], False)
    for piece, condensed in pieces:
        tokens = []
        for place, token in enumerate(piece):
            tokens.append(("raw", token))
            if condensed and ((place + 1) % ratio == 0 or place + 1 == len(piece)):
                tokens.append(("beacon", None))
        window = [list(m) for m in memory]
        new = [[] for _ in layers]
        for kind, token in tokens:
            hidden = model.model.embed_tokens(torch.tensor(token)) if kind == "raw" else model.beacon_embedding
            hidden = hidden[None, None]
            for index, layer in enumerate(layers):
                attention = getattr(layer, family.attention)
                normed = family.attention_input(layer, hidden)
                module = attention if kind == "raw" else model.beacon[index]
                key, value = family.keys_values(module, normed)
                window[index].append((key[0, 0], value[0, 0]))
                new[index].append((kind, key[0, 0], value[0, 0]))
                keys = torch.stack([k for k, _ in window[index]], 1)[None]
                values = torch.stack([v for _, v in window[index]], 1)[None]
                places = torch.arange(keys.shape[2])[None]
                keys = rotate(keys, rotation(model.model.rotary_emb, places, keys))
                query = family.queries(module, normed).transpose(1, 2)
                query = rotate(query, rotation(model.model.rotary_emb, places[:, -1:], query))
                groups = query.shape[1] // keys.shape[1]
                keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
                weights = (query @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])).softmax(-1)
                attended = getattr(attention, family.output)((weights @ values).transpose(1, 2).flatten(2))
                hidden = family.combine(layer, hidden, attended)
            if kind == "raw":
                logits.append(model.lm_head(model.model.norm(hidden))[0, 0])
        raw_kept = max(0, min(config.sinks - sinks, len(piece)))
        sinks += raw_kept
        for index in range(len(layers)):
            raw = [(k, v) for kind, k, v in new[index] if kind == "raw"][:raw_kept]
            beacons = [(k, v) for kind, k, v in new[index] if kind == "beacon"]
            memory[index] += raw + beacons
            over = len(memory[index]) - config.room
            if over > 0:
                del memory[index][config.sinks : config.sinks + over]
    return torch.stack(logits)[-len(text) :]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_equals_one_token_after_the_other(family):
    model = tiny_beacon(family)
    # 3, 8, 21 and 40 tokens: no window condensed, none, two and a bit, four; α is larger for the longest.
    texts = random_texts([3, 8, 21, 40])
    ids, mask = pad(texts)
    logits = model(ids, mask).logits
    for row, text in enumerate(texts):
        expected = slow_logits(model, text, model.config.ratio_for(len(text)))
        torch.testing.assert_close(logits[row, -len(text) :], expected, rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_the_slow_reading():
    model = tiny_beacon(ratios=[4]).train()
    text = random_texts([27])[0]
    trained = {n: p for n, p in model.named_parameters() if "beacon" in n}
    slow = torch.autograd.grad(slow_logits(model, text, 4).square().sum(), list(trained.values()), allow_unused=True)
    fast = torch.autograd.grad(
        model(torch.tensor([text])).logits.square().sum(), list(trained.values()), allow_unused=True
    )
    reached = 0
    for name, a, b in zip(trained, fast, slow, strict=True):
        if b is None:
            # Only keys and values of the last layer's beacons are used.
            assert a is None or not a.any(), name
            continue
        reached += 1
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()) + 1e-6, msg=name)
    assert reached >= len(trained) - 3


def test_compress_then_score_equals_the_slow_reading():
    model = tiny_beacon()
    before, text = random_texts([29, 8])
    memory = model.compress(torch.tensor([before]), total=37)
    expected = slow_logits(model, text, model.config.ratio_for(37), before)
    got = model(torch.tensor([text]), memory=memory, logits_to_keep=5).logits[0]
    torch.testing.assert_close(got, expected[-5:], rtol=1e-4, atol=1e-4)


def test_beyond_its_reach_the_oldest_beacons_go():
    model = tiny_beacon(window=16, stride=8, ratios=[2, 4])
    before, text = random_texts([90, 8])
    memory = model.compress(torch.tensor([before]))
    assert memory.counts.tolist() == [model.config.room]
    assert model.config.ratio_for(90) == 8
    expected = slow_logits(model, text, 8, before)
    torch.testing.assert_close(model(torch.tensor([text]), memory=memory).logits[0], expected, rtol=1e-4, atol=1e-4)
    changed = model.compress(torch.tensor([[(t + 1) % 101 if i else t for i, t in enumerate(before)]]))
    assert not torch.equal(changed.layers[-1][0], memory.layers[-1][0])


@pytest.mark.slow
def test_cached_generation_equals_the_whole_sequence():
    model = tiny_beacon()
    before, prompts = random_texts([29])[0], random_texts([4, 2], seed=3)
    ids, mask = pad(prompts)
    memory = model.compress(torch.tensor([before, before]), total=37)
    made = model.generate(
        ids, attention_mask=mask, memory=model.prepare_memory(memory), max_new_tokens=4, do_sample=False
    )
    for row, prompt in enumerate(prompts):
        text = list(prompt)
        for _ in range(4):
            text.append(int(slow_logits(model, text, model.config.ratio_for(37), before)[-1].argmax()))
        assert made[row, -4:].tolist() == text[-4:]
    with pytest.raises(ValueError, match="compress"):
        model.generate(torch.tensor([before]), max_new_tokens=2)


def test_before_training_a_short_text_is_the_base():
    base = tiny_base("llama")
    model = BeaconForCausalLM.from_base(base, window=24, stride=8)
    ids = torch.tensor(random_texts([8]))
    torch.testing.assert_close(model(ids).logits, base(ids).logits)
    assert {part_of(n, model.config) for n, _ in model.named_parameters()} == {"beacon", "everything"}


def test_beacons_begin_as_the_end_of_text_or_the_token_that_is_named():
    base = tiny_base("llama")
    base.config.eos_token_id, embeddings = 7, base.get_input_embeddings().weight
    assert torch.equal(BeaconForCausalLM.from_base(base).beacon_embedding, embeddings[7])
    assert torch.equal(BeaconForCausalLM.from_base(base, initial_token=5).beacon_embedding, embeddings[5])


def test_training_draws_a_ratio_for_each_window():
    model = tiny_beacon(ratios=[2, 4, 8]).train()
    ids = torch.tensor(random_texts([40]))
    losses = set()
    for seed in range(6):
        torch.manual_seed(seed)
        losses.add(round(model(ids, labels=ids).loss.item(), 4))
    assert len(losses) > 2
    torch.manual_seed(0)
    first = model(ids).logits
    torch.manual_seed(0)
    assert torch.equal(model(ids).logits, first)


def test_saved_and_loaded(tmp_path):
    model = tiny_beacon()
    model.save_pretrained(tmp_path)
    ids = torch.tensor(random_texts([30]))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, BeaconForCausalLM)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stride": 24}, "stride=24"),
        ({"ratios": [16]}, "ratios="),
        ({"ratios": []}, "ratios="),
        ({"initial_token": 10**6}, "initial_token=1000000"),
    ],
)
def test_what_cannot_work(settings, said):
    with pytest.raises(ValueError, match=said):
        BeaconConfig(text_config=tiny_base("llama").config, **{"window": 24, "stride": 8} | settings)
