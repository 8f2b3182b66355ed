"""Configuration: defaults and round trips; refused settings and inputs, with field, value and fix."""

import json
import re

import pytest
import torch
from helpers import VOCAB, random_texts, tiny_base, tiny_shared
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM, SharedLLMModel
from sharedllm.model.settings import Settings
from sharedllm.utils.checkpoints import load_model
from sharedllm.utils.errors import UserError


def ids_of(*lengths: int, seed: int = 0) -> Tensor:
    return torch.tensor(random_texts(list(lengths), seed))


def settings_of(config: SharedLLMConfig) -> dict:
    """Everything but the path it was loaded from."""
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def test_defaults_are_the_papers():
    config = SharedLLMConfig(text_config=LlamaConfig(max_position_embeddings=4096, vocab_size=VOCAB))
    assert (config.window, config.chunk_size, config.strides, config.lower_layers) == (4096, 1024, [16, 8, 4], 4)
    assert config.injection_map == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert (config.encoding, config.lower_weights, config.selection) == ("node", "shared", "right")
    assert config.split_noise == 0.2
    assert config.height == 3
    assert config.get_text_config() is config.text_config


def test_injection_map_is_kept_in_upper_order():
    config = SharedLLMConfig(text_config=tiny_base("llama").config, injection_map=((2, 0), (0, 3), (1, 1)))
    assert config.injection_map == [[2, 0], [1, 1], [0, 3]]


def test_special_tokens_come_from_the_base_unless_given():
    text = LlamaConfig(vocab_size=VOCAB, bos_token_id=3, eos_token_id=4, pad_token_id=5)
    config = SharedLLMConfig(text_config=text, eos_token_id=9)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (3, 9, 5)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_json_round_trip(tmp_path, family):
    base = tiny_base(family, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    config = SharedLLMConfig(
        text_config=base.config,
        window=32,
        chunk_size=16,
        strides=(4, 2),
        lower_layers=2,
        injection_map=[(1, 3)],
        encoding="chunk",
        lower_weights="copy",
        selection="cosine",
        split_noise=0.1,
    )
    config.save_pretrained(tmp_path)
    opened = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(opened, SharedLLMConfig)
    assert type(opened.text_config) is type(base.config)
    assert settings_of(opened) == settings_of(config)
    assert opened.text_config.rope_parameters["rope_theta"] == 5e5
    assert opened.tie_word_embeddings is True
    assert settings_of(SharedLLMConfig(**json.loads(config.to_json_string()))) == settings_of(config)


# --- settings ---------------------------------------------------------------------------------------------------------

BAD_SETTINGS = {
    "no lower layer": ({"lower_layers": 0}, "lower_layers=0 must be between 1 and the base's 4"),
    "too many lower layers": ({"lower_layers": 9}, "lower_layers=9 must be between 1 and the base's 4"),
    "empty map": ({"injection_map": []}, r"injection_map=\[\] injects nothing"),
    "unread lower layer": ({"injection_map": [[3, 0]]}, r"lower layer 3.*lower_layers=3: use 0 … 2"),
    "no such upper layer": ({"injection_map": [[0, 9]]}, "upper layer 9.*0 … 3"),
    "upper layer twice": ({"injection_map": [[0, 1], [1, 1]]}, "feeds an upper layer twice"),
    "map of one number": ({"injection_map": [[0]]}, r"injection_map=\[\[0\]\].*pair"),
    "map of a number": ({"injection_map": 3}, "injection_map"),
    "start of a joint softmax": ({"injection": "joint", "start": "zero"}, "start='zero' is for injection='cross'"),
    "unknown injection": ({"injection": "both"}, "injection.*both"),
    "overlap of nodes": ({"overlap": 4}, "overlap=4 must be 0, or .* encoding='chunk'"),
    "negative overlap": ({"overlap": -1, "encoding": "chunk"}, "overlap=-1 must be"),
    "anchor without a joint softmax": ({"anchor": True}, "anchor=True is for injection='joint', the model has 'cross'"),
    "no reach": ({"reach": 0}, "reach=0 must be at least 1"),
    "no stride": ({"strides": []}, r"strides=\[\] must be one positive stride"),
    "stride of 0": ({"strides": [4, 0]}, r"strides=\[4, 0\] must be one positive stride"),
    "growing strides": ({"strides": [2, 4]}, r"strides=\[2, 4\] must not grow with depth"),
    "strides of text": ({"strides": "4"}, "strides"),
    "chunk of one": ({"chunk_size": 1}, "chunk_size=1 must be at least 2"),
    "half a chunk": ({"chunk_size": 16.5}, "chunk_size.*16.5"),
    "window of 0": ({"window": 0}, "window=0 must be at least 1"),
    "noise of a half": ({"split_noise": 0.5}, r"split_noise=0.5 must be in \[0, 0.5\)"),
    "negative noise": ({"split_noise": -0.1}, "split_noise=-0.1"),
    "unknown policy": ({"selection": "best"}, "selection='best' is not known: use one of right, cosine"),
    "unknown encoding": ({"encoding": "letter"}, "encoding.*letter"),
    "unknown weights": ({"lower_weights": "none"}, "lower_weights.*none"),
    "misspelt": ({"chunk_sze": 16}, "^chunk_sze is not a setting of a SharedLLM: do you mean chunk_size[?]$"),
    "two misspelt": (
        {"chunk_sze": 16, "windw": 32},
        "^chunk_sze is not .*: do you mean chunk_size[?] windw is not .*: do you mean window[?]$",
    ),
    "like no setting": ({"zzz": 16}, "^zzz is not a setting of a SharedLLM: see SharedLLMConfig"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        SharedLLMForCausalLM.from_base(tiny_base("llama"), **{"lower_layers": 3} | settings)


BAD_VALUES = {name: case for name, case in BAD_SETTINGS.items() if case[0].keys() <= Settings.__annotations__.keys()}


@pytest.mark.parametrize(("settings", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_setting_in_place_of_the_saved_one(tmp_path, settings, message):
    tiny_shared("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        SharedLLMForCausalLM.from_pretrained(tmp_path, **settings)


def test_settings_in_place_of_the_saved_ones_are_brought_into_form(tmp_path):
    tiny_shared("llama").save_pretrained(tmp_path)
    given = {"window": None, "injection_map": [[1, 2], [0, 0]], "strides": (4, 2)}
    config = SharedLLMForCausalLM.from_pretrained(tmp_path, **given, ignore_mismatched_sizes=True).config
    assert (config.window, config.injection_map, config.strides) == (64, [[0, 0], [1, 2]], [4, 2])


def test_a_dtype_by_its_earlier_name_is_not_taken_for_that_of_memories(tmp_path):
    with pytest.raises(UserError, match=r"^torch_dtype=torch.float16 is .*: pass dtype=torch.float16\.$"):
        SharedLLMForCausalLM.from_base(str(tmp_path), torch_dtype=torch.float16)


def test_wrong_names_are_refused_before_the_weights_are_loaded(tmp_path, no_weights):
    tiny_base("llama").save_pretrained(tmp_path / "base")
    tiny_shared("llama").save_pretrained(tmp_path / "model")
    base, model = str(tmp_path / "base"), str(tmp_path / "model")
    extend, load = SharedLLMForCausalLM.from_base, SharedLLMForCausalLM.from_pretrained
    with pytest.raises(pytest.fail.Exception):
        extend(base)
    with pytest.raises(UserError, match=r"^windw is no.* mean window[?]$"):
        extend(base, windw=32)  # pyright: ignore[reportCallIssue]
    said = "is no dtype that weights can have: use 'float32', 'bfloat16' or 'float16', or 'auto' for the saved one[.]$"
    for dtype in ("flot16", "float15", "cuda", 16, torch.int8, ["float16"]):
        for use, name in (
            (extend, base),
            (load_model, base),
            (load, model),
            (AutoModelForCausalLM.from_pretrained, model),
        ):
            with pytest.raises(UserError, match=f"^dtype={re.escape(repr(dtype))} {said}"):
                use(name, dtype=dtype)


WRONG_VALUES = {
    "lower_layers": (99, r"lower_layers=99 must be between 1 and the base's 4 layers\."),
    "injection": ("depe", r"injection='depe' is not known: do you mean deep\?"),
    "encoding": ("letter", r"encoding='letter' is not known: use one of node, chunk\."),
    "window": ("big", r"window='big' is of a wrong type: give int or None\."),
    "chunk_size": (1.5, r"chunk_size=1\.5 is of a wrong type: give int\."),
    "strides": ("4", r"strides='4' is of a wrong type: give list\[int\] or tuple\[int, \.\.\.\]\."),
    "injection_map": (3, r"injection_map=3 is of a wrong type: give list\[Any\], tuple\[Any, \.\.\.\] or None\."),
}


@pytest.mark.parametrize(("name", "value", "said"), [(name, *case) for name, case in WRONG_VALUES.items()])
def test_wrong_values_are_refused_before_the_weights_are_loaded(tmp_path, no_weights, name, value, said):
    tiny_base("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"^{said}$"):
        SharedLLMForCausalLM.from_base(str(tmp_path), **{name: value})


def test_a_sharedllm_is_refused_as_a_base_before_its_weights_are_loaded(tmp_path, no_weights):
    tiny_shared("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^the base is a SharedLLM already: "):
        SharedLLMForCausalLM.from_base(str(tmp_path))


MISSPELT = {
    "a setting": ({"windw": 32}, "^windw=32 is no setting of a SharedLLM, and no argument of from_pretrained: do you mean window[?]$"),
    "an argument": ({"devcie_map": "cpu"}, "^devcie_map='cpu' is no setting .* do you mean device_map[?]$"),
    "two": ({"windw": 32, "zzz": 1}, "do you mean window[?] zzz=1 is no setting .*: leave it out[.]$"),
    "an old name": ({"ratios": [4, 2]}, r"^ratios=\[4, 2\] is no setting .*: it is called strides[.]$"),
    "beside a configuration": ({"config": None, "window": 32}, "^window=32 is given beside config: set it there[.]$"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [SharedLLMForCausalLM, SharedLLMModel, AutoModelForCausalLM])
@pytest.mark.parametrize(("given", "message"), MISSPELT.values(), ids=MISSPELT)
def test_what_from_pretrained_does_not_know(tmp_path, kind, given, message):
    tiny_shared("llama").save_pretrained(tmp_path)
    if "config" in given:
        given = given | {"config": AutoConfig.from_pretrained(tmp_path)}
    with pytest.raises(UserError, match=message):
        kind.from_pretrained(tmp_path, **given)


def test_what_from_pretrained_knows(tmp_path):
    """Settings, and arguments of transformers."""
    tiny_shared("llama").save_pretrained(tmp_path)
    files = {"revision": "main", "token": None, "cache_dir": None, "local_files_only": True, "use_safetensors": True}
    files |= {"trust_remote_code": False, "subfolder": "", "variant": None, "ignore_mismatched_sizes": True}
    where = {"device_map": "cpu", "low_cpu_mem_usage": True, "attn_implementation": "eager"}
    for dtype in ({"dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}, {"dtype": {"": "bfloat16"}}):
        settings = {"window": 48, "strides": [2, 2, 1], "selection": "cosine"}
        model = SharedLLMForCausalLM.from_pretrained(tmp_path, **files, **where, **dtype, **settings)
        assert (model.config.window, model.config.strides, model.config.selection) == (48, [2, 2, 1], "cosine")
        assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    assert SharedLLMForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 9.0, 30.0, 60.0],
}


def test_a_joint_window_ends_where_positions_turn_otherwise():
    rope = LONGROPE | {"original_max_position_embeddings": 32}
    base = tiny_base("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    assert SharedLLMForCausalLM.from_base(base, injection="joint").config.window == 32
    assert SharedLLMForCausalLM.from_base(base).config.window == 64
    with pytest.raises(ValueError, match="window=33 is longer than the base's original_max_position_embeddings=32"):
        SharedLLMForCausalLM.from_base(base, injection="joint", window=33)


def test_a_saved_field_of_a_wrong_type_is_a_users_mistake(tmp_path):
    SharedLLMConfig(text_config=tiny_base("llama").config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"numeric": "yes"}))
    for load in (AutoConfig.from_pretrained, SharedLLMForCausalLM.from_pretrained):
        with pytest.raises(UserError, match=r"^numeric='yes' is of a wrong type: give list.int.,"):
            load(tmp_path)
    with pytest.raises(UserError, match=f"^can't load the model {tmp_path}: numeric='yes' is of"):
        load_model(str(tmp_path))


def test_a_file_that_has_no_settings(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"^config[.]json has \[1\], where a model's settings are meant"):
        SharedLLMForCausalLM.from_pretrained(tmp_path)


def test_an_ordinary_model_has_to_be_extended(tmp_path):
    for base, message in (
        (
            LlamaConfig(),
            "^this is an ordinary model, of model_type='llama': make a SharedLLM from it with .*from_base, or",
        ),
        (BertConfig(), "^model_type='bert' is not supported: use one of arcee"),
    ):
        base.save_pretrained(tmp_path)
        with pytest.raises(UserError, match=message):
            SharedLLMForCausalLM.from_pretrained(tmp_path)


def test_a_saved_configuration_is_refused_for_what_would_be_ignored(tmp_path):
    SharedLLMConfig(text_config=tiny_base("llama").config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    SharedLLMConfig.from_dict(saved | {"torch_dtype": "float32", "of_a_later_version": 1})
    for wrong, message in (
        (saved | {"text_config": None}, "^text_config is missing, the configuration of the base"),
        ({k: v for k, v in saved.items() if k != "text_config"}, "^text_config is missing"),
        (
            saved | {"windw": 3, "chunksize": 5},
            r"^windw is .* do you mean window\? chunksize is .* do you mean chunk_size\?$",
        ),
        (saved | {"window": "512"}, r"^window='512' is of a wrong type: give int or None\.$"),
        (saved | {"dtype": "flot16"}, "^dtype='flot16' is no dtype that weights can have"),
        (saved | {"selection_heads": [5]}, r"^selection_heads has 5: use triples"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=message):
            AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("load", [AutoConfig.from_pretrained, SharedLLMForCausalLM.from_pretrained, load_model])
def test_a_base_that_transformers_does_not_know(tmp_path, load):
    SharedLLMConfig(text_config=tiny_base("llama").config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"llama"', '"nosuch"'))
    with pytest.raises(UserError, match=r"model_type='nosuch' is not supported: use one of arcee, .*llama, .*qwen3"):
        load(str(tmp_path))


def test_text_config_is_needed_whole():
    assert SharedLLMConfig().text_config.model_type == "llama"
    with pytest.raises(ValueError, match="text_config has no model_type"):
        SharedLLMConfig(text_config={"hidden_size": 8})


def test_unsupported_family():
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, bos_token_id=1, eos_token_id=2))
    with pytest.raises(ValueError, match=r"model_type='gpt2' is not supported: use one of arcee, .*llama, .*qwen3"):
        SharedLLMForCausalLM.from_base(base)


def test_an_unsupported_family_is_refused_before_its_weights_are_loaded(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^model_type='bert' is not supported: use one of arcee, .*llama, .*qwen3"):
        SharedLLMForCausalLM.from_base(str(tmp_path))


def test_dtype_of_an_instance():
    with pytest.raises(ValueError, match="dtype applies to a checkpoint"):
        SharedLLMForCausalLM.from_base(tiny_base("llama"), dtype=torch.bfloat16)


def test_settings_without_weights():
    """A model made from a configuration has random weights, closed gates, and the base's size."""
    config = tiny_shared("llama").config
    model = AutoModelForCausalLM.from_config(config)
    assert isinstance(model, SharedLLMForCausalLM)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in tiny_shared("llama").named_parameters()
    }
    assert all(p.item() == 0 for n, p in model.named_parameters() if n.endswith(".gate"))


# --- input ------------------------------------------------------------------------------------------------------------

IDS, CONTEXT = ids_of(10, 10), ids_of(40, 40, seed=1)
BAD_INPUTS = {
    "both": ({"context_ids": CONTEXT, "memory": "two"}, "both memory and context_ids"),
    "long with context": ({"input_ids": CONTEXT, "context_ids": CONTEXT}, "input_ids has 40 tokens.*window=32"),
    "long with memory": ({"input_ids": CONTEXT, "memory": "two"}, "input_ids has 40 tokens.*window=32"),
    "long embeddings": ({"input_ids": None, "inputs_embeds": torch.zeros(2, 33, 32)}, "33 tokens.*window=32"),
    "nothing": ({"input_ids": None}, "input_ids is missing"),
    "vocabulary": ({"input_ids": IDS + VOCAB}, "input_ids holds id .*101 entries"),
    "negative id": ({"input_ids": IDS - VOCAB}, "input_ids holds id -"),
    "long, vocabulary": ({"input_ids": CONTEXT + VOCAB}, "input_ids holds id .*101 entries"),
    "context vocabulary": ({"context_ids": CONTEXT + VOCAB}, "context_ids holds id .*101 entries"),
    "query vocabulary": (
        {"context_ids": CONTEXT, "query_ids": IDS + VOCAB, "selection": "cosine"},
        "query_ids holds id .*101 entries",
    ),
    "mask": ({"attention_mask": torch.ones(2, 9)}, r"mask of input_ids has shape \(2, 9\)"),
    "long, mask": ({"input_ids": CONTEXT, "attention_mask": torch.ones(2, 9)}, "mask of input_ids"),
    "context mask": ({"context_ids": CONTEXT, "context_attention_mask": torch.ones(2, 9)}, "mask of context_ids"),
    "floats": ({"input_ids": IDS.float()}, "input_ids has shape .*float32"),
    "one dimension": ({"input_ids": IDS[0]}, r"input_ids has shape \(10,\)"),
    "context of one dimension": ({"context_ids": CONTEXT[0]}, r"context_ids has shape \(40,\)"),
    "memory of another batch": ({"input_ids": IDS[:1], "memory": "two"}, "holds 2 texts, the batch 1"),
    "context of another batch": ({"input_ids": IDS[:1], "context_ids": CONTEXT}, "holds 2 texts, the batch 1"),
    "labels without query": (
        {"context_ids": CONTEXT, "labels": IDS, "selection": "cosine"},
        "selection='cosine' needs query_ids",
    ),
    "labels": ({"labels": IDS[:, :4]}, r"labels .*\(2, 4\)"),
    "long, labels": ({"input_ids": CONTEXT, "labels": IDS}, r"labels .*\(2, 10\)"),
    "queries of another batch": (
        {"context_ids": CONTEXT, "query_ids": IDS[:1], "selection": "cosine"},
        "query_ids .*2 texts",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input(arguments, message):
    arguments = {"input_ids": IDS} | arguments
    model = tiny_shared("llama", selection=arguments.pop("selection", "right"))
    if "memory" in arguments:
        arguments["memory"] = model.read(CONTEXT)
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_bad_reading():
    model = tiny_shared("llama")
    with pytest.raises(ValueError, match="selection='cosine' needs a query"):
        model.read(CONTEXT, selection="cosine")
    with pytest.raises(ValueError, match="selection='best' is not known: use one of right, cosine"):
        model.read(CONTEXT, selection="best")
    with pytest.raises(ValueError, match="sources names 1 texts"):
        model.read(CONTEXT, sources=["a"])
    memory = model.read(CONTEXT)
    with pytest.raises(ValueError, match="holds 2 texts, context_ids has 1"):
        model.append(memory, CONTEXT[:1])
    other = tiny_shared("llama", injection_map=[[0, 0]])
    with pytest.raises(ValueError, match="holds 3 injected layers, the model has 1"):
        other(IDS, memory=memory)
