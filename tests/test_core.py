"""What the method promises, on tiny random models: harmless start, order, batches, appending, decoding, bad input."""

import dataclasses
import itertools

import pytest
import torch
from helpers import FAMILIES, pad, random_texts, tiny_base, tiny_shared
from transformers import AutoConfig, AutoModelForCausalLM

from sharedllm import SharedLLMForCausalLM

MAPS = {"paper": None, "mixed": [[0, 0], [1, 1], [1, 3]]}


def ids_of(*lengths: int, seed: int = 0) -> torch.Tensor:
    return pad(random_texts(list(lengths), seed))[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("injection_map", MAPS)
@pytest.mark.parametrize("lower_weights", ["shared", "copy"])
def test_harmless_start(family, attention, dtype, injection_map, lower_weights):
    """Before training logits equal the base's to the bit, with and without a context, and the base is left as it was."""
    base = tiny_base(family, attn_implementation=attention, dtype=dtype)
    ids, context = ids_of(20, 20), ids_of(37, 37, seed=1)
    with torch.no_grad():
        expected = base(ids).logits
        model = SharedLLMForCausalLM.from_base(
            base,
            window=32,
            chunk_size=16,
            ratios=[4, 2],
            lower_layers=2,
            injection_map=MAPS[injection_map],
            lower_weights=lower_weights,
        )
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(model(ids, context_ids=context).logits, expected)
        assert torch.equal(base(ids).logits, expected)
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {attention}
    assert not any("cross_attention" in name for name, _ in base.named_parameters())


def test_gates_have_gradients_at_the_start():
    model = SharedLLMForCausalLM.from_base(tiny_base("llama"), window=32, chunk_size=16, lower_layers=2)
    ids = ids_of(20)
    model(ids, labels=ids, context_ids=ids_of(40, seed=1)).loss.backward()
    gates = [p for n, p in model.named_parameters() if n.endswith(".gate")]
    assert len(gates) == 2
    assert all(p.grad.abs() > 0 for p in gates)


@pytest.mark.parametrize("encoding", ["node", "chunk"])
def test_order_of_chunks_and_indices(encoding):
    """A memory is a set: permuting entries with their indices changes nothing, without them it does."""
    model, ids = tiny_shared("llama", encoding=encoding), ids_of(20)
    memory = model.read(ids_of(64, seed=1))
    order = torch.randperm(memory.mask.shape[1], generator=torch.Generator().manual_seed(0))
    keys = tuple(k[:, :, order] for k in memory.keys)
    values = tuple(v[:, :, order] for v in memory.values)
    moved = {n: getattr(memory, n)[:, order] for n in ("chunk", "position", "ratio", "mask")}
    with torch.no_grad():
        expected = model(ids, memory=memory).logits
        same = model(ids, memory=dataclasses.replace(memory, keys=keys, values=values, **moved)).logits
        other = model(ids, memory=dataclasses.replace(memory, keys=keys, values=values)).logits
    torch.testing.assert_close(same, expected, atol=1e-4, rtol=1e-4)
    assert (other - expected).abs().max() > 1e-2


def test_batched_equals_single():
    model = tiny_shared("qwen3")
    contexts, runs = random_texts([0, 1, 45, 16]), random_texts([9, 20, 4, 12], seed=1)
    (context_ids, context_mask), (ids, mask) = pad(contexts, side="right"), pad(runs)
    with torch.no_grad():
        batch = model(ids, attention_mask=mask, context_ids=context_ids, context_attention_mask=context_mask).logits
        for row, (context, run) in enumerate(zip(contexts, runs, strict=True)):
            one = {"context_ids": torch.tensor([context])} if context else {}
            single = model(torch.tensor([run]), **one).logits[0]
            torch.testing.assert_close(batch[row, -len(run) :], single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoding", ["node", "chunk"])
@pytest.mark.parametrize("cuts", [[16], [5], [5, 7, 30], [0, 50], [31, 33]])
def test_appending_equals_reading_in_one_go(encoding, cuts):
    model = tiny_shared("mistral", encoding=encoding)
    ids = ids_of(53, 53)
    with torch.no_grad():
        whole = model.read(ids)
        borders = [0, *cuts, 53]
        memory = model.read(ids[:, : borders[1]])
        for start, end in itertools.pairwise(borders[1:]):
            memory = model.append(memory, ids[:, start:end])
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(memory.tensors()[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_shortcut_and_batching_of_reading_change_nothing():
    model, ids = tiny_shared("qwen2", lower_layers=4, injection_map=[[3, 1], [2, 2]]), ids_of(61, 61)
    with torch.no_grad():
        expected = model.read(ids)
        for options in ({"plain": True}, {"batch_tokens": 16}, {"batch_tokens": 1}):
            for name, tensor in model.read(ids, **options).tensors().items():
                torch.testing.assert_close(tensor, expected.tensors()[name], atol=1e-5, rtol=1e-4, msg=name)


def test_causality():
    """A token changes no logit before it; any token of the context changes the logits behind."""
    model, ids, context = tiny_shared("llama", ratios=[2, 1, 1]), ids_of(20), ids_of(20, seed=1)
    with torch.no_grad():
        expected = model(ids, context_ids=context).logits
        for at in (0, 7, 19):
            changed = ids.clone()
            changed[0, at] = (changed[0, at] + 1) % 101
            logits = model(changed, context_ids=context).logits
            torch.testing.assert_close(logits[:, :at], expected[:, :at], atol=1e-5, rtol=1e-5)
            assert not torch.allclose(logits[:, at:], expected[:, at:], atol=1e-3)
        for at in range(20):
            changed = context.clone()
            changed[0, at] = (changed[0, at] + 1) % 101
            assert not torch.allclose(model(ids, context_ids=changed).logits, expected, atol=1e-4), at


def test_long_input_splits_by_itself():
    model, long = tiny_shared("llama"), ids_of(80, 80)
    labels = long.clone()
    labels[:, 60:70] = -100
    with torch.no_grad():
        got = model(long, labels=labels)
        expected = model(long[:, -32:], context_ids=long[:, :-32], labels=labels[:, -32:])
    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)


def test_long_input_splits_the_same_with_padding_on_either_side():
    model, texts = tiny_shared("llama"), random_texts([80, 40, 20])
    with torch.no_grad():
        left, right = (model(ids, attention_mask=mask).logits for ids, mask in (pad(texts), pad(texts, side="right")))
        for row, text in enumerate(texts):
            expected = model(torch.tensor([text])).logits[0]
            for batch in (left, right):
                torch.testing.assert_close(batch[row, -min(32, len(text)) :], expected, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients():
    model, ids, context = tiny_shared("llama", split_noise=0.0).train(), ids_of(20), ids_of(40, seed=1)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(ids, labels=ids, context_ids=context, use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    # transformers 5.23 gave it a new name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)


# --- generation -------------------------------------------------------------------------------------------------------


def test_cached_decoding_equals_the_full_forward():
    model, (ids, mask) = tiny_shared("qwen2"), pad(random_texts([9, 20, 4]))
    memory = model.read(*pad(random_texts([40, 3, 0], seed=1), side="right"))
    with torch.no_grad():
        out = model.generate(ids, attention_mask=mask, memory=memory, max_new_tokens=8, do_sample=False)
        assert torch.equal(out[:, :20], ids)
        full_mask = torch.cat([mask, torch.ones(3, 8, dtype=mask.dtype)], 1)
        logits = model(out, attention_mask=full_mask, memory=memory).logits
    assert torch.equal(logits[:, 19:-1].argmax(-1), out[:, 20:])


def test_token_by_token_equals_one_pass():
    model, ids = tiny_shared("llama"), ids_of(24)
    memory = model.read(ids_of(50, seed=1))
    with torch.no_grad():
        expected = model(ids, memory=memory).logits
        cache, logits = None, []
        for piece in ids.split([10, 1, 1, 5, 7], dim=1):
            out = model(piece, memory=memory, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits)
    torch.testing.assert_close(torch.cat(logits, 1), expected, atol=1e-4, rtol=1e-4)


def test_beams_sampling_and_streamers():
    model, ids, context = tiny_shared("llama"), ids_of(10, 10), ids_of(40, 40, seed=1)
    memory = model.read(context)
    beams = model.generate(ids, memory=memory, max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False)
    assert beams.shape == (4, 15)
    again = model.generate(
        ids, context_ids=context, max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False
    )
    assert torch.equal(beams, again)
    samples = []
    for _ in range(2):
        torch.manual_seed(0)
        samples.append(model.generate(ids, memory=memory, max_new_tokens=5, do_sample=True))
    assert torch.equal(*samples)

    class Streamer:
        def __init__(self):
            self.pieces, self.ended = [], False

        def put(self, value):
            self.pieces.append(value)

        def end(self):
            self.ended = True

    streamer = Streamer()
    out = model.generate(ids[:1], memory=memory.index_select([0]), max_new_tokens=5, do_sample=False, streamer=streamer)
    assert streamer.ended
    assert [int(p) for p in streamer.pieces[1:]] == out[0, 10:].tolist()


def test_prompt_longer_than_the_window():
    """What doesn't fit beside the new tokens is context, behind a memory if there is one."""
    model, long, context = tiny_shared("llama"), ids_of(70), ids_of(40, seed=1)
    out = model.generate(long, max_new_tokens=6, do_sample=False)
    assert torch.equal(out[:, :70], long)
    short = model.generate(long[:, -26:], context_ids=long[:, :-26], max_new_tokens=6, do_sample=False)
    assert torch.equal(out[:, 70:], short[:, 26:])
    behind = model.generate(long, memory=model.read(context), max_new_tokens=6, do_sample=False)
    joined = torch.cat([context, long[:, :-26]], 1)
    expected = model.generate(long[:, -26:], context_ids=joined, max_new_tokens=6, do_sample=False)
    assert torch.equal(behind[:, 70:], expected[:, 26:])


# --- saving and loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower_weights", ["shared", "copy"])
@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load(tmp_path, lower_weights, tied):
    base = tiny_base("llama", tie_word_embeddings=tied)
    model = tiny_shared("llama", base=base, lower_weights=lower_weights, injection_map=[[0, 0], [1, 3]])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids, context = ids_of(20), ids_of(40, seed=1)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        got, expected = (m(ids, context_ids=context).logits for m in (loaded, model))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.fingerprint() == model.fingerprint()
    config = AutoConfig.from_pretrained(tmp_path)
    for name in ("window", "chunk_size", "ratios", "lower_layers", "injection_map", "encoding", "lower_weights"):
        assert getattr(config, name) == getattr(model.config, name), name
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


def test_gates_stay_in_float32(tmp_path):
    tiny_shared("llama").save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kinds = {n.endswith("cross_attention.gate"): set() for n, _ in loaded.named_parameters()}
    for name, parameter in loaded.named_parameters():
        kinds[name.endswith("cross_attention.gate")].add(parameter.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    with torch.no_grad():
        assert loaded(ids_of(20), context_ids=ids_of(40, seed=1)).logits.isfinite().all()


def test_fingerprint_changes_with_what_a_memory_depends_on():
    model = tiny_shared("llama", injection_map=[[0, 0], [1, 3]])
    prints = [model.fingerprint()]
    for change in ("lower", "reader", "setting"):
        with torch.no_grad():
            if change == "lower":
                model.model.upper.layers[1].self_attn.k_proj.weight[0, 0] += 1
            elif change == "reader":
                model.model.upper.layers[3].cross_attention.reader.v_proj.weight[0, 0] += 1
            else:
                model.config.ratios = [8, 4, 2]
        prints.append(model.fingerprint())
    assert len(set(prints)) == 4
    with torch.no_grad():
        model.model.upper.layers[3].mlp.up_proj.weight += 1  # above the lower layers: memories stay good
    assert model.fingerprint() == prints[-1]


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    model, ids, context = tiny_shared("llama"), ids_of(20), ids_of(40, seed=1)
    memory = model.read(context)
    similar = tiny_shared("llama", selection="similarity")
    too_many = torch.tensor([[5, 101]])
    cases = [
        (lambda: model(ids, memory=memory, context_ids=context), "both memory and context_ids"),
        (lambda: model(ids_of(40), memory=memory), "window=32"),
        (lambda: model(ids_of(20, 20), memory=memory), "memory holds 1 texts, the batch 2"),
        (lambda: model.read(too_many), "id 101, but the vocabulary has 101"),
        (lambda: model.read(context, torch.ones(1, 3)), "mask of context_ids has shape"),
        (lambda: model.read(context.float()), "integer ids"),
        (lambda: model.read(context, selection="best"), "selection='best' is not known"),
        (lambda: model.read(context, sources=["a", "b"]), "sources names 2 texts"),
        (lambda: similar.read(context), "needs a query"),
        (lambda: similar(ids, labels=ids, context_ids=context), "needs query_ids when there are labels"),
        (lambda: model.generate(ids, max_new_tokens=32), "max_new_tokens=32 does not fit"),
        (lambda: model.generate(ids, memory=memory, context_ids=context), "both memory and context_ids"),
        (lambda: model.append(memory, ids_of(5, 5)), "memory holds 1 texts, context_ids has 2"),
        (lambda: tiny_shared("qwen2", lower_layers=3, injection_map=[[0, 0]])(ids, memory=memory), "injected layers"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lower_layers": 9}, "lower_layers=9 must be between 1 and"),
        ({"ratios": []}, "one positive stride a tree level"),
        ({"ratios": [2, 4]}, "must not grow with depth"),
        ({"chunk_size": 1}, "chunk_size=1"),
        ({"window": 0}, "window=0"),
        ({"split_noise": 0.7}, "split_noise=0.7"),
        ({"injection_map": [[0, 9]]}, "upper layer 9"),
        ({"injection_map": [[3, 0]], "lower_layers": 2}, "lower layer 3"),
        ({"injection_map": [[0, 1], [1, 1]]}, "feeds an upper layer twice"),
        ({"injection_map": []}, "injects nothing"),
        ({"encoding": "letter"}, "letter"),
        ({"chunk_size": "many"}, "many"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SharedLLMForCausalLM.from_base(tiny_base("llama"), **settings)


def test_unsupported_family_is_refused_by_name():
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=2, n_head=2, vocab_size=101)
    with pytest.raises(
        ValueError, match=r"model_type='gpt2' is not supported: use one of llama, mistral, qwen2, qwen3"
    ):
        SharedLLMForCausalLM.from_base(AutoModelForCausalLM.from_config(config))


def test_sliding_window_shorter_than_a_chunk_is_refused():
    with pytest.raises(ValueError, match="sliding_window=8"):
        SharedLLMForCausalLM.from_base(tiny_base("mistral", sliding_window=8), chunk_size=16)
