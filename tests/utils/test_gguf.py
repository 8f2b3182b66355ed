"""A base in one .gguf file: its weights equal the written ones, and it can be extended and saved like any other."""

import json

import pytest
import torch
from helpers import tiny_base

from sharedllm.loading import load_shared_config
from sharedllm.utils.checkpoints import load_model, load_tokenizer
from sharedllm.utils.errors import UserError

gguf = pytest.importorskip("gguf")
# llama.cpp's names for the parts of a layer.
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def written(base, path, quantised: bool = False):
    config = base.config
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([chr(33 + i) if i < 94 else f"x{i - 94}" for i in range(config.vocab_size)])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges(["x 9"])
    writer.add_eos_token_id(0)
    for name, tensor in base.state_dict().items():
        if name in WHOLE:
            renamed = WHOLE[name]
        else:
            _, _, layer, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            renamed = f"blk.{layer}.{PARTS[part]}.{kind}"
        array = tensor.float().numpy()
        if quantised and array.ndim == 2:
            quant = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(renamed, gguf.quants.quantize(array, quant), raw_dtype=quant)
        else:
            writer.add_tensor(renamed, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def base():
    return tiny_base("qwen2", intermediate_size=64, vocab_size=128, tie_word_embeddings=False)


@pytest.mark.parametrize("quantised", [False, True])
def test_its_weights_are_those_written(base, tmp_path, quantised):
    path = written(base, tmp_path / "small.gguf", quantised)
    loaded = load_model(str(path), dtype=torch.float32)
    ids = torch.arange(24)[None] + 33
    with torch.no_grad():
        got, expected = loaded(ids).logits, base(ids).logits
    # Eight bits lose at most half of a 127th of the largest of 32 weights, in each of them.
    assert (got - expected).norm() < (0.1 if quantised else 1e-5) * expected.norm()
    weight = loaded.model.layers[0].mlp.up_proj.weight
    assert (weight - base.model.layers[0].mlp.up_proj.weight).abs().max() <= (
        weight.abs().max() / 240 if quantised else 0
    )
    assert load_tokenizer(str(path)).convert_ids_to_tokens([0, 1]) == ["!", '"']
    loaded.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(load_model(str(tmp_path / "saved"))(ids).logits, got)


def test_it_is_extended_like_any_other(base, tmp_path, run):
    path = written(base, tmp_path / "small.gguf")
    code, out, err = run("extend", path, "-o", tmp_path / "model", "--paper", "--window", 64, "--json")
    assert code == 0, err
    assert json.loads(out)["parameters"] > 0 and "dequantised to bfloat16" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is no GGUF file, or a damaged one: it does not begin with GGUF"),
        (b"x", "is no GGUF"),
        (b"GGUF junk", "is damaged or was cut short; get it again"),
    ],
)
def test_no_such_file_or_a_damaged_one(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.gguf").write_bytes(content)
    loads = (load_model, load_tokenizer, *([] if content == b"GGUF junk" else [load_shared_config]))
    for load in loads:
        with pytest.raises(UserError, match=message) as caught:
            load(str(tmp_path / "bad.gguf"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", [1, 6, 600, -100])
def test_a_file_that_was_cut_short_is_not_said_to_lack_a_tokenizer(base, tmp_path, run, left):
    path = written(base, tmp_path / "small.gguf")
    path.write_bytes(path.read_bytes()[:left])
    for options in ([], ["--paper"]):
        code, out, err = run("extend", path, "-o", tmp_path / "model", *options)
        assert (code, out, err.count("\n")) == (2, "", 1) and "damaged" in err and "tokenizer, which" not in err, err
