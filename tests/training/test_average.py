"""The mean of two models: of every weight, in the dtype of the first; models that can't be averaged are refused."""

import pytest
import torch
from helpers import tiny_shared
from typer.testing import CliRunner

import sharedllm.training.average as module
from sharedllm import SharedLLMForCausalLM
from sharedllm.training.average import average


def shared(seed):
    return tiny_shared("llama", seed, injection="joint", encoding="chunk", injection_map=[[1, 1], [2, 3]])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_is_between(share):
    ours, theirs = shared(0).state_dict(), shared(1).state_dict()
    expected = {name: (1 - share) * ours[name] + share * theirs[name] for name in ours}
    found = average(shared(0), shared(1), share).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_what_cannot_be_averaged():
    with pytest.raises(ValueError, match="share=2"):
        average(shared(0), shared(1), 2)
    with pytest.raises(ValueError, match="the models differ in"):
        average(shared(0), tiny_shared("llama", lower_layers=2), 0.5)


def test_command(base_folder, tmp_path):
    shared(0).save_pretrained(tmp_path / "a")
    shared(1).save_pretrained(tmp_path / "b")
    for folder in ("a", "b"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / folder / name).write_bytes((base_folder / name).read_bytes())
    app = module.typer.Typer()
    app.command()(module.command)
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "mean")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    written = SharedLLMForCausalLM.from_pretrained(tmp_path / "mean").state_dict()
    for name, tensor in average(shared(0), shared(1), 0.5).state_dict().items():
        torch.testing.assert_close(written[name], tensor)
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ValueError) and "already exists" in str(again.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "mean"]
