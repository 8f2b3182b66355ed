"""What transformers' common tests of models ask, one by one: each works or is refused as docs/transformers.md says."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from combined import rarely
from helpers import VOCAB, random_texts, tiny_base, tiny_shared

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM

PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"
IDS = torch.tensor(random_texts([12, 12]))
CONTEXT = torch.tensor(random_texts([40, 40], seed=1))


@pytest.fixture
def model():
    return tiny_shared("llama", injection="joint", encoding="chunk")


def logits(model, **options):
    with torch.no_grad():
        return model(IDS, context_ids=CONTEXT, **options).logits


def saved(model, folder):
    model.save_pretrained(folder)
    assert torch.equal(logits(SharedLLMForCausalLM.from_pretrained(folder)), logits(model))


def configured(model, folder):
    model.config.save_pretrained(folder)
    assert SharedLLMConfig.from_pretrained(folder).to_dict() == model.config.to_dict()


def copied(model, _):
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


def tied(_, folder):
    model = tiny_shared("llama", base=tiny_base("llama", tie_word_embeddings=True), injection="joint", encoding="chunk")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(folder)
    loaded = SharedLLMForCausalLM.from_pretrained(folder)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight and torch.equal(logits(loaded), logits(model))


def resized(model, folder):
    before = logits(model)
    model.resize_token_embeddings(VOCAB + 9)
    assert model.config.vocab_size == VOCAB + 9 == logits(model).shape[-1]
    torch.testing.assert_close(logits(model)[..., :VOCAB], before)
    model.save_pretrained(folder)
    assert logits(SharedLLMForCausalLM.from_pretrained(folder)).shape[-1] == VOCAB + 9


def embeddings(model, _):
    new = torch.nn.Embedding(VOCAB, 32)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new and model.model.upper.embed_tokens is new
    head = torch.nn.Linear(32, VOCAB)
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is head


def gradients(model, checkpointed: bool):
    model = copy.deepcopy(model).train()
    model.config.split_noise = 0.0
    if checkpointed:
        # Its older name warns where there is the newer one.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model(IDS, context_ids=CONTEXT, labels=IDS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def all_gradients(model, _):
    assert [name for name, grad in gradients(model, False).items() if grad is None or not grad.any()] == []


def checkpointed(model, _):
    ours, theirs = gradients(model, True), gradients(model, False)
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad)


def as_tuple(model, _):
    assert torch.equal(model(IDS, return_dict=False)[0], model(IDS).logits)


def embedded(model, _):
    torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(IDS)).logits, model(IDS).logits)


def padded(model, left: bool):
    fill = torch.full((2, 5), 7)
    ids = torch.cat([fill, IDS] if left else [IDS, fill], 1)
    mask = torch.cat([fill * 0, IDS * 0 + 1] if left else [IDS * 0 + 1, fill * 0], 1)
    got = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[:, 5:] if left else got[:, :12], model(IDS).logits, atol=1e-5, rtol=1e-4)


def cached(model, _):
    with torch.no_grad():
        first = model(IDS[:, :8], use_cache=True)
        rest = model(IDS[:, 8:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(rest, model(IDS).logits[:, 8:], atol=1e-5, rtol=1e-4)


def hidden(model, _):
    states = model(IDS, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1 and all(s.shape == (2, 12, 32) for s in states)


def attentions(_, folder):
    model = tiny_shared("llama", base=tiny_base("llama", attn_implementation="eager"))
    found = model(IDS, output_attentions=True).attentions
    assert len(found) == 4 and all(a.shape[:3] == (2, 4, 12) for a in found)


def kept(model, _):
    torch.testing.assert_close(model(IDS, logits_to_keep=3).logits, model(IDS).logits[:, -3:])


def generated(model, rows: int = 2, **options):
    torch.manual_seed(0)
    given = options | {"context_ids": CONTEXT, "max_new_tokens": 4}
    out = model.generate(IDS, **given)
    assert out.shape == (rows, 16) and torch.equal(out[:: rows // 2, :12], IDS)
    torch.manual_seed(0)
    assert torch.equal(out, model.generate(IDS, **given))
    return out


def greedy(model, _):
    out = generated(model, do_sample=False)
    assert torch.equal(out[:, 12], logits(model)[:, -1].argmax(-1))


def as_dictionary(model, _):
    out = model.generate(IDS, max_new_tokens=3, output_scores=True, return_dict_in_generate=True)
    assert out.sequences.shape == (2, 15) and len(out.scores) == 3 and out.scores[0].shape == (2, VOCAB)


def static(model, _):
    assert torch.equal(
        generated(model, do_sample=False, cache_implementation="static"), generated(model, do_sample=False)
    )


def same_attention(model, _):
    other = tiny_shared(
        "llama", base=tiny_base("llama", attn_implementation="eager"), injection="joint", encoding="chunk"
    )
    torch.testing.assert_close(logits(other), logits(model), atol=1e-5, rtol=1e-4)


def half(model, _):
    got = logits(copy.deepcopy(model).to(torch.bfloat16))
    assert got.dtype == torch.bfloat16 and got.isfinite().all()


def other_attention(kind: str) -> Callable:
    def use(model, folder):
        model.save_pretrained(folder)
        SharedLLMForCausalLM.from_pretrained(folder, attn_implementation=kind)

    return use


def exported(model, _):
    whole = torch.export.export(model, (IDS,), kwargs={"use_cache": False})
    torch.testing.assert_close(whole.module()(IDS, use_cache=False).logits, model(IDS).logits, atol=1e-5, rtol=1e-4)


def other_modes(model, _):
    for options in ({"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "low"}, {"num_beams": 4, "num_beam_groups": 2}):
        with pytest.raises((ValueError, NotImplementedError, TypeError, OSError)):
            model.generate(IDS, max_new_tokens=3, **options)
    raise ValueError("all three")


CHECKS: dict[str, Callable] = {
    "`save_pretrained`, `from_pretrained`": saved,
    "a configuration saved and loaded": configured,
    "a copy by `copy.deepcopy`": copied,
    "tied weights": tied,
    "`resize_token_embeddings`": resized,
    "input and output embeddings set anew": embeddings,
    "gradient checkpointing": checkpointed,
    "gradients of every weight": all_gradients,
    "`return_dict=False`": as_tuple,
    "`inputs_embeds` in `forward`": embedded,
    "`inputs_embeds` in `generate`": lambda m, _: m.generate(inputs_embeds=m.get_input_embeddings()(IDS)),
    "padding on the left": lambda m, _: padded(m, True),
    "padding on the right": lambda m, _: padded(m, False),
    "a cache continued by hand": cached,
    "`output_hidden_states`": hidden,
    "`output_attentions` with eager attention": attentions,
    "`logits_to_keep`": kept,
    "greedy `generate`": greedy,
    "`generate` that samples": lambda m, _: generated(m, do_sample=True, temperature=0.9, top_k=20),
    "`generate` with beams": lambda m, _: generated(m, num_beams=3),
    "`generate` with `num_return_sequences`": lambda m, _: generated(m, rows=6, do_sample=True, num_return_sequences=3),
    "`generate` with scores and a dictionary": as_dictionary,
    "`generate` with a static cache": static,
    "contrastive search, DoLa, group beams": other_modes,
    "eager attention equals SDPA": same_attention,
    '`attn_implementation="flash_attention_2"`': other_attention("flash_attention_2"),
    '`attn_implementation="flex_attention"`': other_attention("flex_attention"),
    "`generate_batch`": lambda m, _: m.generate_batch([[1, 2]]),
    "half precision": half,
    "`torch.export` of running text": exported,
}


def table() -> dict[str, str]:
    rows = re.findall(r"^\| (.+?) \| (works|refused) \|$", PAGE.read_text().partition("## One by one")[2], re.M)
    return dict(rows)


def test_the_table_names_what_is_checked():
    assert list(table()) == list(CHECKS)


EXPORT = "`torch.export` of running text"  # takes five seconds


@pytest.mark.parametrize("name", [*(name for name in CHECKS if name != EXPORT), *rarely(EXPORT)])
def test_what_the_table_says(model, tmp_path, name):
    if table()[name] == "works":
        CHECKS[name](model, tmp_path)
        return
    with pytest.raises((ValueError, ImportError)) as refused:
        CHECKS[name](model, tmp_path)
    assert len(str(refused.value)) < 700
