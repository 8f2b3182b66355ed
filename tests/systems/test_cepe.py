"""CEPE equals a slow version: one row and one chunk after the other, with new projections in every step."""

import math
import random

import pytest
import torch
from helpers import byte_tokenizer, pad, perturb, random_texts, tiny_base
from torch import nn
from transformers import AutoModelForCausalLM, ModernBertForMaskedLM

from sharedllm.data.shard_writer import build_shards
from sharedllm.data.shards import TokenStore
from sharedllm.model.families import family_of
from sharedllm.systems.cepe import CepeConfig, CepeForCausalLM
from sharedllm.systems.cepe.config import encoder_config
from sharedllm.systems.cepe.evaluated import Cepe
from sharedllm.systems.cepe.pretrain import mask_tokens, pretrain
from sharedllm.training.parts import part_of


def tiny_cepe(family="llama", **settings):
    torch.manual_seed(1)
    encoder = {"hidden_size": 16, "intermediate_size": 24}
    model = CepeForCausalLM.from_base(
        tiny_base(family), **{"window": 32, "chunk_size": 8, "encoder": encoder} | settings
    )
    perturb([p for n, p in model.named_parameters() if ".injection." in n or "encoder" in n], 0.1)
    return model.eval()


def slow_logits(model, text: list[int], context: list[int]):
    """Logits (L, V) of one text after one context."""
    family, size = family_of(model.model.config), model.config.chunk_size
    states = [
        model.encoder(torch.tensor([context[i : i + size]])).last_hidden_state[0] for i in range(0, len(context), size)
    ]
    hidden = model.model.embed_tokens(torch.tensor([text]))
    places = torch.arange(len(text))[None]
    cos_sin = model.model.rotary_emb(hidden, places)
    causal = torch.full((len(text), len(text)), -math.inf).triu(1)[None, None]
    for layer in model.model.layers:
        attention, cross = getattr(layer, family.attention), layer.injection
        normed = family.attention_input(layer, hidden)
        own = attention(hidden_states=normed, position_embeddings=cos_sin, attention_mask=causal)[0]

        def read(middle, cross=cross):
            if not states:
                return middle
            queries = family.queries(cross, cross.norm(middle))[0]
            keys, values = family.keys_values(cross, torch.cat(states))
            heads = []
            for head in range(queries.shape[1]):
                group = head // cross.num_key_value_groups
                scores = queries[:, head] @ keys[:, group].T / math.sqrt(cross.head_dim)
                heads.append(scores.softmax(-1) @ values[:, group])
            return middle + cross.o_proj(torch.cat(heads, -1))[None]

        hidden = family.combine(layer, hidden, own, read)
    return model.lm_head(model.model.norm(hidden))[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("project", [True, False])
def test_equals_one_row_and_chunk_after_the_other(family, side, project):
    model = tiny_cepe(family)
    contexts, texts = random_texts([19, 8, 0, 3]), random_texts([7, 12, 5, 1], seed=2)
    memory = model.read(*pad(contexts, side), project=project, batch_tokens=16)
    assert (memory.layers is None) != project
    ids, mask = pad(texts)
    logits = model(ids, attention_mask=mask, memory=memory).logits
    for row, (text, context) in enumerate(zip(texts, contexts, strict=True)):
        torch.testing.assert_close(logits[row, -len(text) :], slow_logits(model, text, context), rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_the_slow_reading():
    model = tiny_cepe()
    context, text = random_texts([19, 7])
    trained = {n: p for n, p in model.named_parameters() if ".injection." in n or "encoder" in n}
    slow = torch.autograd.grad(slow_logits(model, text, context).square().sum(), list(trained.values()))
    logits = model(torch.tensor([text]), memory=model.read(torch.tensor([context]))).logits
    fast = torch.autograd.grad(logits.square().sum(), list(trained.values()))
    assert len(trained) > 20
    for name, a, b in zip(trained, fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()), msg=name)


def test_without_a_context_it_is_the_base():
    base = tiny_base("llama")
    model = CepeForCausalLM.from_base(base, window=32, chunk_size=8)
    ids = torch.tensor(random_texts([9, 9]))
    assert torch.equal(model(ids).logits, base(ids).logits)
    memory = model.read(*pad([random_texts([5])[0], []]))
    logits = model(ids, memory=memory).logits
    torch.testing.assert_close(logits[1], base(ids).logits[1])
    assert not torch.allclose(logits[0], base(ids).logits[0])


def test_every_token_of_the_context_counts():
    model = tiny_cepe()
    context, text = random_texts([19, 7])
    logits = model(torch.tensor([text]), memory=model.read(torch.tensor([context]))).logits
    for place in range(len(context)):
        changed = [(t + 1) % 101 if i == place else t for i, t in enumerate(context)]
        other = model(torch.tensor([text]), memory=model.read(torch.tensor([changed]))).logits
        assert (other - logits).abs().amax(-1).min() > 1e-6


def test_starts_as_the_paper_says():
    base = tiny_base("qwen3")
    model = CepeForCausalLM.from_base(base, window=32, chunk_size=8)
    width = model.config.encoder_config.hidden_size
    for layer, cross in zip(base.model.layers, (layer.injection for layer in model.model.layers), strict=True):
        attention = layer.self_attn
        assert torch.equal(cross.k_proj.weight, attention.k_proj.weight[:, :width])
        assert torch.equal(cross.v_proj.weight, attention.v_proj.weight[:, :width])
        assert torch.equal(cross.q_proj.weight, attention.q_proj.weight)
        assert torch.equal(cross.o_proj.weight, attention.o_proj.weight)
        assert torch.equal(cross.norm.weight, layer.input_layernorm.weight)
    parts = {n: part_of(n, model.config) for n, _ in model.named_parameters()}
    assert set(parts.values()) == {"encoder", "cross_attention", "everything"}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith("self_attn.q_proj"):
            assert parts[f"{name}.weight"] == "everything"


def test_memories_are_cut_and_joined():
    model = tiny_cepe()
    contexts, text = random_texts([19, 8]), random_texts([7])[0]
    memory = model.read(*pad(contexts))
    turned = memory.index_select([1, 0])
    joined = memory.append(turned)
    ids = torch.tensor([text, text])
    torch.testing.assert_close(model(ids, memory=turned).logits.flip(0), model(ids, memory=memory).logits)
    # Attention over the encoder's states has no positions, so both rows now read the same.
    logits = model(ids, memory=joined).logits
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="projected"):
        memory.append(model.read(*pad(contexts), project=False))


def test_cached_generation_equals_the_whole_sequence():
    model = tiny_cepe()
    contexts, prompts = random_texts([19, 8]), random_texts([4, 2], seed=3)
    ids, mask = pad(prompts)
    made = model.generate(
        ids, attention_mask=mask, memory=model.read(*pad(contexts)), max_new_tokens=4, do_sample=False
    )
    for row, prompt in enumerate(prompts):
        text = list(prompt)
        for _ in range(4):
            text.append(int(slow_logits(model, text, contexts[row])[-1].argmax()))
        assert made[row, -4:].tolist() == text[-4:]


def test_as_a_system():
    model = tiny_cepe()
    context, text = random_texts([19, 9])
    method = Cepe(model)
    scores = method.score(method.prepare(torch.tensor([context]), torch.tensor([text[:2]])), torch.tensor([text]), 3)
    expected = slow_logits(model, text, context).log_softmax(-1)[range(5, 8), text[6:]]
    torch.testing.assert_close(scores.log_probs[0], expected, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded(tmp_path):
    model = tiny_cepe()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, CepeForCausalLM)
    context, text = random_texts([19, 9])
    ids = torch.tensor([text])
    torch.testing.assert_close(
        loaded(ids, memory=loaded.read(torch.tensor([context]))).logits,
        model(ids, memory=model.read(torch.tensor([context]))).logits,
    )


def test_the_encoder_is_a_small_share_of_the_decoder():
    base = tiny_base("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=16, head_dim=64)
    model = CepeForCausalLM.from_base(base)
    share = sum(p.numel() for p in model.encoder.parameters()) / base.num_parameters()
    assert 0.05 < share < 0.08


@pytest.mark.slow
def test_an_encoder_is_trained_and_put_beside_a_decoder(tmp_path):
    rng = random.Random(0)
    tokenizer = byte_tokenizer()
    (tmp_path / "text.txt").write_text(
        "".join(rng.choice(["the falcon sang. ", "captains slept. "]) for _ in range(400))
    )
    build_shards([str(tmp_path / "text.txt")], tokenizer, tmp_path / "tokens")
    base = tiny_base("llama", vocab_size=256)
    config = encoder_config(base.config, base.num_parameters())
    store = TokenStore(tmp_path / "tokens")
    losses = pretrain(config, [store], tmp_path / "encoder", steps=30, batch=2, rate=1e-2)
    assert losses[-1] < losses[0] - 1
    again = pretrain(config, [store], tmp_path / "again", steps=3, batch=2, rate=1e-2)
    assert again[0] == losses[0]
    model = CepeForCausalLM.from_base(base, window=32, chunk_size=8, encoder=str(tmp_path / "encoder"))
    saved = ModernBertForMaskedLM.from_pretrained(tmp_path / "encoder")
    for name, weight in saved.model.state_dict().items():
        assert torch.equal(weight, model.encoder.state_dict()[name]), name
    with pytest.raises(ValueError, match="already exists"):
        pretrain(config, [store], tmp_path / "encoder", steps=1)
    with pytest.raises(ValueError, match="has 258 tokens, the base 101"):
        CepeForCausalLM.from_base(tiny_base("llama"), encoder=str(tmp_path / "encoder"))


def test_masks_hide_a_third():
    ids = torch.arange(4000).view(4, 1000) % 101
    masked, labels = mask_tokens(ids, 101, torch.Generator().manual_seed(0))
    hidden = masked == 101
    assert 0.25 < hidden.float().mean() < 0.35
    assert torch.equal(labels[hidden], ids[hidden]) and (labels[~hidden] == -100).all()
    assert torch.equal(masked[~hidden], ids[~hidden])


def test_what_cannot_work():
    model = tiny_cepe()
    with pytest.raises(ValueError, match="window=32"):
        model(torch.tensor(random_texts([33])))
    with pytest.raises(ValueError, match="holds 1 texts, the batch 2"):
        model(torch.tensor(random_texts([5, 5])), memory=model.read(torch.tensor(random_texts([5]))))
    with pytest.raises(ValueError, match="encoder_config"):
        CepeConfig(text_config=model.config.text_config)
    with pytest.raises(ValueError, match="chunk_size=1024"):
        tiny_cepe(chunk_size=1024)
    with pytest.raises(ValueError, match=r"encoder\.colour"):
        tiny_cepe(encoder={"colour": 1})
    with pytest.raises(ValueError, match="can't load the encoder"):
        tiny_cepe(encoder="/nowhere")


@pytest.mark.parametrize("hidden", [64, 256, 512, 896, 1024, 1536, 2048, 3584, 4096])
def test_an_encoder_has_heads_of_one_even_size(hidden):
    """A quarter of 896, the width of Qwen2.5-0.5B, is no multiple of 64."""
    made = encoder_config(tiny_base("llama", hidden_size=hidden).config, 10**6)
    size, rest = divmod(made.hidden_size, made.num_attention_heads)
    assert rest == 0 and size % 2 == 0
