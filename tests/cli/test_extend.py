"""What `extend` takes where nothing is said, and what it refuses before it measures."""

import json
import re

import pytest
from helpers import tiny_base
from transformers import BertConfig, PreTrainedConfig

from sharedllm.cli.injections import DEFAULTS
from sharedllm.model.base_config import check_base, positions_of
from sharedllm.utils.errors import UserError


@pytest.mark.parametrize("options", [["--injection", "joint"], ["--injection", "cross"], ["--paper"]], ids=str)
def test_the_defaults_are_those_of_the_help(run, base_folder, tmp_path, options):
    injection = "joint" if "joint" in options else "cross"
    assert run("extend", base_folder, "-o", tmp_path / "made", *options)[0] == 0
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert {field: config[field] for field in DEFAULTS[injection]} == DEFAULTS[injection]
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run("extend", "--help")[1]).split())
    for said in (
        "Default: 2048 (deep), 1024 (joint, cross).",
        "Default: measured (deep), 4 (joint, cross).",
        "Default: chunk (deep, joint), node (cross).",
    ):
        assert said in text, text


def test_a_joint_model_keeps_every_token_and_is_calibrated(run, wide_base_folder, tmp_path):
    """Without another option, as the pages on training say."""
    model, text = tmp_path / "model", tmp_path / "text.txt"
    options = ["--injection", "joint", "--chunk-size", 16]
    text.write_text("The keeper of the mill is called Clara. " * 100)
    assert run("extend", wide_base_folder, "-o", model, *options)[0] == 0
    code, _, err = run("read", text, "--keep-all", "-o", tmp_path / "text.memory", "--model", model)
    assert code == 0, err
    code, _, err = run("calibrate", model, "--data", text, "--tokens", 2000, "--questions", 2)
    assert code == 0 and "heads selected" in err, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoding", "x"], "'x' is not one of 'chunk', 'node'"),
        (["--lower-weights", "x"], "'x' is not one of 'shared', 'copy'"),
        (["--selection", "x"], "use one of right, cosine"),
        (["--paper", "--questions", "many"], "injection deep: leave out --paper."),
        (["--injection", "joint", "--questions", "many"], "injection deep: leave out --injection joint."),
        (["--lower-layers", 99], "--lower-layers 99 must be between 1 and the "),
        (["--questions", "many", "--lower-layers", 2], "injection deep: leave out --lower-layers."),
        (["--paper", "--data", __file__], "--paper measures nothing"),
        (["--injection", "joint", "--data", __file__], "--injection joint measures nothing"),
        (["--overlap", 99_999], "--overlap 99999 is more than a chunk, of 2048 tokens: lower it"),
        (
            ["--window", 1],
            "--window 1 is too small for a question of one word and its answer: give at least 45, or leave",
        ),
        (["--window", 44, "--paper"], "give at least 45, or leave it out"),
        (["--chunk-size", 7], "--chunk-size 7 is less than a piece, of 8 tokens or more,"),
        (["--chunk-size", 6, "--window", 60], "give at least 7, or leave it out"),
        (["--window", 65], "--window 65 is longer than the 64 positions"),
    ],
    ids=str,
)
def test_what_can_not_be_meant_is_refused(run, base_folder, tmp_path, no_weights, options, message):
    code, _, err = run("extend", base_folder, "-o", tmp_path / "made", *options)
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "made").exists()


def test_a_sharedllm_is_no_base(run, small_folder, tmp_path, no_weights):
    for options in ([], ["--paper"]):
        code, _, err = run("extend", small_folder, "-o", tmp_path / "made", *options)
        assert code == 2 and "is a SharedLLM already" in err and err.count("\n") == 1, err


def test_another_family_is_refused_before_anything_is_loaded(run, tmp_path):
    BertConfig().save_pretrained(tmp_path / "bert")
    code, out, err = run("extend", tmp_path / "bert", "-o", tmp_path / "made")
    assert (code, out) == (2, "") and err.startswith("error: model_type='bert' is not supported: use one of arcee,"), (
        err
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "{} has no config.json: name the folder of a model."),
        ("{", "can't load the model {}: "),
        ('{"model_type": "nosuch"}', "can't load the model {}: transformers "),
    ],
)
def test_the_fault_of_a_configuration_comes_before_a_missing_tokenizer(run, tmp_path, config, said):
    base = tmp_path / "base"
    base.mkdir()
    if config is not None:
        (base / "config.json").write_text(config)
    code, out, err = run("extend", base, "-o", tmp_path / "made")
    assert (code, out) == (2, "") and err.startswith(f"error: {said.format(base)}"), err


def test_an_adapter_is_a_base_without_a_configuration(tmp_path):
    with pytest.raises(UserError, match=r"has no config[.]json"):
        check_base(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    check_base(str(tmp_path))


def test_scaled_positions_count():
    config = tiny_base("llama", max_position_embeddings=256).config
    assert positions_of(config) == 256
    config.rope_parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    assert positions_of(config) == 1024
    config.rope_parameters = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {}}
    assert positions_of(config) == 2048
    assert positions_of(PreTrainedConfig()) is None
