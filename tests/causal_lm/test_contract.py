"""The contract of transformers models: saving, dtypes, ties, outputs, the Trainer. And a test of the tests themselves:
mistakes planted in positions, masks and samples must show in a comparison with the reference."""

import copy
from dataclasses import replace

import pytest
import torch
from combined import combined
from helpers import FAMILIES, VOCAB, pad, random_texts, tiny_base, tiny_shared
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoModelForCausalLM

from sharedllm import SharedLLMForCausalLM
from sharedllm.model import backbone, layer_run
from sharedllm.model import encode as reading
from sharedllm.model.cross_attention import prepare
from sharedllm.reference import reference_logits

DIFFERENT = [[0, 0], [2, 1], [1, 3]]


def ids_of(*lengths: int, seed: int = 0) -> Tensor:
    return torch.tensor(random_texts(list(lengths), seed))


IDS, CONTEXT = ids_of(12, 12), ids_of(40, 40, seed=1)


def forward(model: SharedLLMForCausalLM, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs)


def assert_same_function(one: SharedLLMForCausalLM, other: SharedLLMForCausalLM) -> None:
    for context in ({}, {"context_ids": CONTEXT}):
        assert torch.equal(forward(one, IDS, **context).logits, forward(other, IDS, **context).logits)


# --- saving and loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "tied", "weights"), combined(FAMILIES, [False, True], ["shared", "copy"]))
def test_save_and_load(tmp_path, family, tied, weights):
    base = tiny_base(family, tie_word_embeddings=tied)
    model = tiny_shared(family, base=base, lower_weights=weights, injection_map=DIFFERENT)
    model.save_pretrained(tmp_path)
    for loaded in (SharedLLMForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert isinstance(loaded, SharedLLMForCausalLM)
        state = loaded.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
        assert_same_function(loaded, model)
        assert loaded.fingerprint() == model.fingerprint()
    backbone_only = AutoModel.from_pretrained(tmp_path)
    hidden = forward(backbone_only, IDS, context_ids=CONTEXT).last_hidden_state
    assert torch.equal(hidden, forward(model.model, IDS, context_ids=CONTEXT).last_hidden_state)


def test_from_base_folder(tmp_path):
    """Extending a checkpoint on disk equals extending its instance, in the requested dtype."""
    base = tiny_base("qwen2")
    base.save_pretrained(tmp_path)
    settings = {"window": 32, "chunk_size": 16, "lower_layers": 2}
    assert_same_function(
        SharedLLMForCausalLM.from_base(str(tmp_path), **settings), SharedLLMForCausalLM.from_base(base, **settings)
    )
    assert SharedLLMForCausalLM.from_base(str(tmp_path), dtype=torch.bfloat16, **settings).dtype == torch.bfloat16


def test_gates_stay_in_float32(tmp_path):
    model = tiny_shared("llama")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith(".gate") else torch.bfloat16), name
        if name.endswith(".gate"):
            assert torch.equal(parameter, model.get_parameter(name))
    logits = forward(loaded, IDS, context_ids=CONTEXT).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    memory = loaded.read(CONTEXT)
    assert {t.dtype for t in memory.keys + memory.values} == {torch.bfloat16}


def test_fingerprint_changes_with_what_a_memory_depends_on():
    model = tiny_shared("llama", injection_map=DIFFERENT)
    seen = {model.fingerprint()}
    for name in ("layers.1.self_attn.k_proj", "layers.1.injection.projection.v_proj", "embed_tokens"):
        with torch.no_grad():
            model.model.upper.get_submodule(name).weight[0, 0] += 1
        seen.add(model.fingerprint())
    model.config.strides = [8, 4, 2]
    seen.add(model.fingerprint())
    assert len(seen) == 5
    with torch.no_grad():
        model.model.upper.layers[3].mlp.up_proj.weight += 1
        model.model.upper.layers[0].injection.q_proj.weight += 1
    assert model.fingerprint() in seen, "neither higher layers nor queries change the kept tokens"


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_repeats_to_the_bit():
    model = tiny_shared("llama")
    assert torch.equal(*(forward(model, IDS, context_ids=CONTEXT).logits for _ in range(2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_equals_sdpa(family):
    eager, sdpa = (tiny_shared(family, base=tiny_base(family, attn_implementation=a)) for a in ("eager", "sdpa"))
    got, expected = (forward(m, IDS, context_ids=CONTEXT).logits for m in (eager, sdpa))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    eager.set_attn_implementation("sdpa")
    assert_same_function(eager, sdpa)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 5, 11])], ids=["last", "last three", "some"])
def test_logits_to_keep(keep):
    model = tiny_shared("llama")
    whole = forward(model, IDS, context_ids=CONTEXT).logits
    part = forward(model, IDS, context_ids=CONTEXT, logits_to_keep=keep).logits
    torch.testing.assert_close(part, whole[:, -keep:] if isinstance(keep, int) else whole[:, keep])


def test_hidden_states_and_attentions():
    """One state for the embedding and one per layer, and attentions of the running text only, as for any decoder."""
    model = tiny_shared("llama", base=tiny_base("llama", attn_implementation="eager"))
    out = forward(model, IDS, context_ids=CONTEXT, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 12, 32)] * 5
    assert [tuple(a.shape) for a in out.attentions] == [(2, 4, 12, 12)] * 4
    assert torch.equal(model.lm_head(out.hidden_states[-1]), out.logits)


def test_embeddings_as_input():
    model = tiny_shared("llama")
    embedded = model.get_input_embeddings()(IDS).detach()
    got = forward(model, inputs_embeds=embedded, context_ids=CONTEXT).logits
    assert torch.equal(got, forward(model, IDS, context_ids=CONTEXT).logits)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_resized_vocabulary(tied):
    model = tiny_shared("llama", base=tiny_base("llama", tie_word_embeddings=tied))
    before = forward(model, IDS, context_ids=CONTEXT).logits
    model.resize_token_embeddings(VOCAB + 7)
    after = forward(model, IDS, context_ids=CONTEXT).logits
    assert after.shape[-1] == model.config.text_config.vocab_size == VOCAB + 7
    torch.testing.assert_close(after[..., :VOCAB], before)
    assert model.read(torch.tensor([[VOCAB + 6, 0]])).mask.all()


# --- training ---------------------------------------------------------------------------------------------------------


def test_loss_scales_with_items_in_batch():
    model = tiny_shared("llama")
    logits = forward(model, IDS, context_ids=CONTEXT).logits
    total = cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten(), reduction="sum")
    for items in (None, 22, 7, torch.tensor(7)):
        options = {} if items is None else {"num_items_in_batch": items}
        loss = forward(model, IDS, context_ids=CONTEXT, labels=IDS, **options).loss
        torch.testing.assert_close(loss, total / (22 if items is None else items))


class Texts(torch.utils.data.Dataset):
    """Running texts with their contexts, as a Trainer takes them."""

    def __init__(self, count: int):
        self.running, self.contexts = ids_of(*[12] * count), ids_of(*[40] * count, seed=1)

    def __len__(self) -> int:
        return len(self.running)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.running[index], "labels": self.running[index], "context_ids": self.contexts[index]}


def trained(model: SharedLLMForCausalLM, folder: str, batch: int, steps: int) -> tuple[SharedLLMForCausalLM, float]:
    """One optimizer step of the Trainer over four texts; also returns its loss."""
    from transformers import Trainer, TrainingArguments  # slow to import

    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=steps,
        use_cpu=True,
        learning_rate=1e-2,
        max_grad_norm=0.0,
        save_strategy="no",
        optim="sgd",
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        seed=0,
    )
    result = Trainer(model, arguments, train_dataset=Texts(4)).train()
    return model, result.training_loss


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")  # the Trainer's own schedule of a single step
def test_trainer(tmp_path):
    """A step changes gates and all other weights; two accumulated half batches equal one whole batch."""
    start = SharedLLMForCausalLM.from_base(tiny_base("llama"), window=32, chunk_size=16, lower_layers=2, split_noise=0)
    whole, loss = trained(copy.deepcopy(start), str(tmp_path), batch=4, steps=1)
    halves, half_loss = trained(copy.deepcopy(start), str(tmp_path), batch=2, steps=2)
    assert loss == pytest.approx(half_loss, rel=1e-4)
    for name, before in start.named_parameters():
        after = whole.get_parameter(name)
        if name.endswith(".gate"):
            assert before == 0 and after != 0, name
        elif ".injection." not in name:
            # With closed gates the weights behind them have no gradient yet.
            assert not torch.equal(after, before), name
        torch.testing.assert_close(halves.get_parameter(name), after, atol=1e-5, rtol=1e-3)


# --- planted mistakes -------------------------------------------------------------------------------------------------


def error(model: SharedLLMForCausalLM) -> float:
    """Largest difference from the reference in a ragged batch, as a share of the largest logit."""
    running, contexts = random_texts([9, 12, 5]), random_texts([45, 0, 17], 1)
    ids, mask = pad(running)
    context_ids, context_mask = pad(contexts, "right")
    logits = forward(
        model, ids, attention_mask=mask, context_ids=context_ids, context_attention_mask=context_mask
    ).logits
    with torch.no_grad():
        expected = [reference_logits(model, *pair) for pair in zip(running, contexts, strict=True)]
    rows = zip(logits, expected, strict=True)
    return max(float((row[-len(e) :] - e).abs().max() / e.abs().max()) for row, e in rows)


def change_prepared(**changes):
    """`prepare` of a memory with changed fields."""

    def wrong(memory, *args):
        return prepare(replace(memory, **{name: f(memory) for name, f in changes.items()}), *args)

    return backbone, "prepare", wrong


def without_presence(memory, *args):
    prepared = prepare(memory, *args)
    return replace(prepared, present=torch.ones_like(prepared.present))


def first_of_stride(nodes, strides, keep):
    samples = sample(nodes, strides, keep)
    return replace(samples, position=torch.maximum(samples.position - samples.stride + 1, nodes.start[samples.node]))


def swap(memory) -> Tensor:
    """Chunks 0 and 1 are swapped."""
    return torch.where(memory.chunk < 2, 1 - memory.chunk, memory.chunk)


def without_causality(*args, allowed):
    return attend(*args, allowed=torch.ones_like(allowed))


sample, attend = reading.sample, layer_run.attend
MISTAKES = {
    "padding is read": change_prepared(mask=lambda m: torch.ones_like(m.mask)),
    "texts without context read padding": (backbone, "prepare", without_presence),
    "two trees swapped": change_prepared(chunk=swap),
    "keys at token positions": change_prepared(chunk=lambda m: m.position),
    "queries one chunk early": change_prepared(lengths=lambda m: m.lengths - m.chunk_size),
    "keys one pair further": change_prepared(keys=lambda m: m.keys[1:] + m.keys[:1]),
    "first of each stride": (reading, "sample", first_of_stride),
    "future visible in the lower model": (layer_run, "attend", without_causality),
    "chunks one token longer": (
        reading,
        "chunks",
        lambda lengths, size, chunks=reading.chunks: chunks(lengths, size + 1),
    ),
}


@pytest.fixture
def model() -> SharedLLMForCausalLM:
    """With a bias after attention, so that reading nothing differs from not reading."""
    return tiny_shared("llama", base=tiny_base("llama", attention_bias=True))


def test_no_mistake(model):
    assert error(model) < 1e-5


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_planted_mistakes_show(model, monkeypatch, mistake):
    monkeypatch.setattr(*mistake)
    assert error(model) > 1e-3
