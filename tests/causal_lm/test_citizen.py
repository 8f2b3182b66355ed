"""What other code expects of a model of transformers: each works, or is refused in one line (docs/transformers.md)."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import random_texts, tiny_base, tiny_shared
from transformers import AutoModelForCausalLM

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM
from sharedllm.model.config import HOW_TO_LOAD

IDS = torch.tensor(random_texts([12, 12]))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@torch.no_grad()
def test_tuples(family):
    model = tiny_shared(family)
    whole = model(IDS, labels=IDS)
    for given in (model(IDS, labels=IDS, return_dict=False), with_return_dict(model, False, IDS, labels=IDS)):
        assert isinstance(given, tuple) and torch.equal(given[0], whole.loss) and torch.equal(given[1], whole.logits)
    hidden = model.model(IDS)
    assert torch.equal(model.model(IDS, return_dict=False)[0], hidden.last_hidden_state)


def with_return_dict(model, value: bool, *inputs, **options):
    model.config.return_dict = value
    try:
        return model(*inputs, **options)
    finally:
        model.config.return_dict = True


def test_a_configuration_without_arguments_and_fields_of_the_base(tmp_path):
    bare = SharedLLMConfig()
    assert bare.text_config.model_type == "llama" and bare.window == bare.text_config.max_position_embeddings
    config = tiny_shared("qwen2").config
    base = config.text_config
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                 "intermediate_size", "max_position_embeddings"):  # fmt: skip
        assert getattr(config, name) == getattr(base, name)
    config.vocab_size = 77
    assert base.vocab_size == 77
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "vocab_size" not in written and written["text_config"]["vocab_size"] == 77
    assert SharedLLMConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("tied", [False, True])
def test_parallel_and_precision_plans_name_what_is_there(tied):
    for injection in ("cross", "joint"):
        settings = {"injection": injection, "encoding": "chunk" if injection == "joint" else "node"}
        model = tiny_shared("llama", base=tiny_base("llama", tie_word_embeddings=tied), **settings)
        modules = {name for name, _ in model.named_modules()}
        assert "lm_head" in model.tp_plan
        assert all(any(matches(pattern, name) for name in modules) for pattern in model.tp_plan)
        names = [name for name, _ in model.named_parameters()]
        for kept in model._keep_in_fp32_modules_strict:
            assert any(kept in name for name in names)
        assert bool(model._keep_in_fp32_modules_strict) == (injection == "cross")


def matches(pattern: str, name: str) -> bool:
    parts, found = pattern.split("."), name.split(".")
    return len(parts) == len(found) and all(p in ("*", f) for p, f in zip(parts, found, strict=True))


def test_offloaded_weights_are_refused():
    model = tiny_shared("llama")
    model.model.upper.layers[0].mlp.to("meta")
    for use in (lambda: model.fingerprint(), lambda: model.read(IDS)):
        with pytest.raises(ValueError, match=r"mlp\S+ is offloaded, .* load the whole model on one device"):
            use()
    with pytest.raises(ValueError, match="is offloaded"):
        SharedLLMForCausalLM.from_base(tiny_base("llama").to("meta"), lower_layers=2)


@pytest.mark.parametrize("place", ["disk", "meta"])
def test_a_model_that_a_device_map_offloads_reads_nothing(tmp_path, place):
    """Whether the ids are on the CPU or where the model says that it is; running text alone is no reading."""
    tiny_shared("llama", window=64).save_pretrained(tmp_path / "model")
    model = SharedLLMForCausalLM.from_pretrained(
        tmp_path / "model", device_map={"": place}, offload_folder=str(tmp_path / "disk")
    )
    ids = torch.tensor(random_texts([100]))
    with pytest.raises(ValueError, match="without an offloading device_map"):
        model(ids)
    for given in (ids, ids.to(model.device)):
        for use in (
            lambda given=given: model.read(given),
            lambda given=given: model.read(given, fingerprint=False),
            lambda given=given: model.generate(given, max_new_tokens=2),
        ):
            with pytest.raises(
                ValueError, match="load the whole model on one device, without an offloading device_map"
            ):
                use()


def test_quantised_and_wrapped_bases_are_refused():
    base = tiny_base("llama")
    base.model.layers[1].self_attn.q_proj.weight = torch.nn.Parameter(
        torch.zeros(32, 32, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ValueError, match=r"q_proj.weight is quantised .*load the base without quantisation"):
        SharedLLMForCausalLM.from_base(base, lower_layers=2)
    with pytest.raises(ValueError, match=r"base is a Linear: .*merge_and_unload"):
        SharedLLMForCausalLM.from_base(torch.nn.Linear(2, 2), lower_layers=2)


def test_embeddings_as_a_prompt_are_refused_where_ids_are_needed():
    model = tiny_shared("llama")
    embeddings = model.get_input_embeddings()(IDS)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=embeddings).logits, model(IDS).logits)
        with pytest.raises(ValueError, match="not embeddings alone"):
            model.generate(inputs_embeds=embeddings, max_new_tokens=2)
        with pytest.raises(ValueError, match="the running text has"):
            model(inputs_embeds=embeddings.repeat(1, 40, 1))


@pytest.mark.parametrize("kind", ["flash_attention_2", "flex_attention"])
def test_other_attention_is_refused(tmp_path, kind):
    tiny_shared("llama").save_pretrained(tmp_path)
    with pytest.raises((ValueError, ImportError), match=r"(?i)flash|flex"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=kind)


@pytest.mark.slow
def test_a_fresh_process_is_told_how(tmp_path):
    tiny_shared("llama").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["how_to_load"] == HOW_TO_LOAD and "import sharedllm" in HOW_TO_LOAD
    code = f"from transformers import AutoModelForCausalLM as A; A.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode and "sharedllm" in done.stderr


@pytest.mark.slow  # of joint attention tests/causal_lm/test_table.py exports one each time
@pytest.mark.parametrize("injection", ["cross", "joint"])
@torch.no_grad()
def test_export_of_running_text(injection):
    model = tiny_shared("llama", injection=injection, encoding="chunk")
    exported = torch.export.export(model, (IDS,), {"use_cache": False}).module()
    torch.testing.assert_close(exported(IDS, use_cache=False).logits, model(IDS).logits)
