"""Training that can't continue or should not begin: numbers, disks, checkpoints and recipes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from sharedllm import SharedLLMForCausalLM
from sharedllm.training.log import read_log


def test_a_loss_that_is_no_number_is_caught_with_its_batch(run, recipe, tmp_path):
    code, _, err = run("train", recipe(train={"everything": 1e20}, clip=1e9, warmup=0.0, decay="constant"))
    assert code == 2
    assert "its batch is in" in err
    (saved,) = (tmp_path / "run").glob("not-finite-step-*.safetensors")
    with safe_open(saved, "pt") as file:
        assert file.get_tensor("running").shape == (4, 64)
        assert len(json.loads(file.metadata()["kinds"])) == 4 and json.loads(file.metadata()["shifts"]) == [0]


@pytest.mark.slow
def test_a_run_that_diverged_goes_on_elsewhere_as_its_error_says(run, recipe, tmp_path):
    """Weights that are no numbers are not saved; the last whole checkpoint starts a run of another folder."""
    assert run("train", recipe(checkpoint_every=1), "--max-steps", 1)[0] == 0
    mild = yaml.safe_load(recipe(checkpoint_every=1).read_text())
    # The gradients of the step are finite, the weights after it so large that their norm is not.
    wild = recipe("wild", checkpoint_every=1, train={"everything": 1e30}, warmup=0.0, decay="constant")
    start = tmp_path / "run" / "checkpoints" / "step-00000001"
    code, _, err = run("train", wild, "--resume-from", start)
    said = " ".join(err.split())
    assert code == 2 and "step 1: the weights are no finite numbers after it. Lower the learning rates" in said, err
    assert not list((tmp_path / "wild" / "checkpoints").glob("step-*"))
    calm = recipe("calm", checkpoint_every=1, train=mild["train"])
    assert run("train", calm, "--resume-from", start)[0] == 0
    assert [r["step"] for r in read_log(tmp_path / "calm" / "log.jsonl") if "loss" in r] == list(range(1, 6))


@pytest.mark.parametrize(
    "file",
    [
        "weights.safetensors",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("optimizer.safetensors", "state.json")),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_works(run, recipe, tmp_path, file):
    path = recipe()
    assert run("train", path, "--max-steps", 4)[0] == 0
    broken = tmp_path / "run" / "checkpoints" / "step-00000004" / file
    broken.write_bytes(broken.read_bytes()[:-20])
    code, _, err = run("train", path)
    before = broken.parent.parent / "step-00000002"
    assert code == 2 and err.endswith(
        f"is damaged: resume from an earlier checkpoint with --resume-from {before}.\n"
    ), err
    shutil.move(before, tmp_path / "away")
    assert f"no earlier checkpoint is there: delete {broken.parent} to begin anew." in run("train", path)[2]
    shutil.move(tmp_path / "away", before)
    assert run("train", path, "--resume-from", before)[0] == 0
    assert [r["step"] for r in read_log(tmp_path / "run" / "log.jsonl") if "loss" in r] == list(range(6))


@pytest.mark.slow
def test_full_disk_is_an_error_and_earlier_checkpoints_work(run, recipe, tmp_path):
    """A limit on file size simulates a full disk: writing fails in the middle."""
    path = recipe(steps=4)
    script = (
        "import resource, signal, sys\n"
        "from sharedllm.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "main(['train', sys.argv[1]])\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert run("train", path, "--max-steps", 2)[0] == 0
    done = subprocess.run([sys.executable, "-c", script, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "can't be written" in done.stderr
    assert "the last whole one is" in done.stderr
    folder = tmp_path / "run" / "checkpoints"
    assert [p.name for p in sorted(folder.iterdir())] == ["step-00000002"]
    assert run("train", path)[0] == 0


def test_a_tokenizer_that_is_not_the_bases_is_refused(run, recipe, tmp_path, base_folder):
    data = yaml.safe_load(recipe().read_text())["data"] | {"folder": str(tmp_path / "other")}
    code, _, err = run("train", recipe(data=data | {"tokenizer": "tiny"}))
    assert code == 2 and "data.tokenizer=tiny is not the tokenizer of" in err.splitlines()[-1]
    # A base without a tokenizer: only its size can be compared.
    bare = tmp_path / "bare"
    AutoModelForCausalLM.from_pretrained(base_folder).save_pretrained(bare)
    code, _, err = run("train", recipe(base=str(bare), data=data | {"tokenizer": "tiny"}))
    assert code == 2 and "the tokenizer has 4,096 tokens" in err.splitlines()[-1]
    assert not (tmp_path / "run" / "model").exists()


def test_a_model_that_cannot_be_written_leaves_nothing_but_the_checkpoint(run, recipe, tmp_path, monkeypatch):
    def full(self, folder, **options):
        Path(folder).mkdir(exist_ok=True)
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SharedLLMForCausalLM, "save_pretrained", full)
        code, _, err = run("train", recipe(steps=2))
    assert code == 2 and "can't be written (No space left on device)" in err.splitlines()[-1]
    assert not [path for path in (tmp_path / "run").iterdir() if "model" in path.name]
    assert run("train", recipe(steps=2))[0] == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": {"riddle": 1.0}}, "kinds.riddle is not a kind of sample"),
        ({"weights": {"needles": 2.0}}, "weights.needles is not a kind of sample: do you mean needle?"),
        ({"validation": {"tasks": ["riddle"]}}, "validation.tasks.riddle is not a kind of sample"),
        ({"kinds": {"instructions": 1.0}}, "needs data.instructions"),
        ({"base": "/nowhere"}, "/nowhere does not exist"),
        ({"context": 4032, "batch_tokens": 4096, "micro_tokens": 4096}, "no document holds a sample of 4,096 tokens"),
        (
            {"context": 8128, "batch_tokens": 8192, "micro_tokens": 8192},
            "no document holds a sample of 8,192",
        ),
        ({"model": {"chunksize": 16}}, "model.chunksize is not a setting of a SharedLLM: do you mean chunk_size?"),
        ({"model": {"window": "512"}}, "model.window='512' must be"),
    ],
)
def test_bad_runs_are_refused_in_one_line(run, recipe, tmp_path, changes, message):
    code, _, err = run("train", recipe(**changes))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_goes_on_only_as_it_began(run, recipe):
    assert run("train", recipe(), "--max-steps", 2)[0] == 0
    code, _, err = run("train", recipe(seed=1))
    assert code == 2
    assert "folder" in err
    code, _, err = run("train", recipe(warmup=0.5))
    assert code == 2
    assert "holds a run with warmup=0.01" in err


def test_a_run_that_is_stopped_says_from_where_it_goes_on(run, recipe, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sharedllm.training.run.train", stopped)
        code, _, err = run("train", recipe(checkpoint_every=7))
        assert code == 130 and "the same command goes on from the beginning (checkpoint_every=7)" in err
    assert run("train", recipe(checkpoint_every=1), "--max-steps", 2)[0] == 0
    monkeypatch.setattr("sharedllm.training.run.train", stopped)
    said = f"goes on from {tmp_path / 'run' / 'checkpoints' / 'step-00000002'}"
    assert said in run("train", recipe(checkpoint_every=1))[2].replace("\n", "")


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_steps(run, recipe, tmp_path):
    """With the samples that a run of that length from the start draws; not where phases would begin elsewhere."""
    constant = {"decay": "constant", "warmup": 0.0}
    assert run("train", recipe(steps=2, **constant))[0] == 0
    assert run("train", recipe(steps=4, **constant))[0] == 0
    longer = [r["loss"] for r in read_log(tmp_path / "run" / "log.jsonl") if "loss" in r]
    assert run("train", recipe(steps=4, output=str(tmp_path / "whole"), **constant))[0] == 0
    assert longer == [r["loss"] for r in read_log(tmp_path / "whole" / "log.jsonl") if "loss" in r]
    code, _, err = run("train", recipe(steps=3, **constant))
    assert (code, "holds a run with steps=4, the recipe says 3" in err) == (2, True)


def test_a_run_of_two_phases_is_not_made_longer(run, recipe):
    halves = [{"share": 0.5}, {"share": 0.5}]
    assert run("train", recipe(steps=2, schedule=halves), "--max-steps", 1)[0] == 0
    code, _, err = run("train", recipe(steps=4, schedule=halves))
    assert (code, "holds a run with steps=2" in err) == (2, True)


def test_strides_of_a_phase_are_not_those_of_the_model(run, recipe, tmp_path, monkeypatch):
    """Also without validation: the saved model reads as the recipe says."""
    monkeypatch.undo()  # curves without validation are drawn too
    data = yaml.safe_load(recipe().read_text())["data"] | {"validation_share": 0.0, "folder": str(tmp_path / "all")}
    own = yaml.safe_load(recipe().read_text())["model"]["strides"]
    other = [1] * len(own)
    assert run("train", recipe(steps=2, data=data, schedule=[{"share": 1.0, "strides": [other]}]))[0] == 0
    written = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["strides"]
    assert written == own != other
    assert (tmp_path / "run" / "curves.png").is_file()


@pytest.mark.parametrize("name", ["model", "adapter", "checkpoints"])
def test_a_folder_that_no_training_wrote_is_not_replaced(run, recipe, tmp_path, name):
    foreign = tmp_path / "run" / name / "weights.bin"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    code, _, err = run("train", recipe())
    assert code == 2 and f"has '{name}' in it, but no recipe.json" in err
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize("said", [True, False], ids=["said", "transformers' default"])
def test_running_text_beyond_the_window_of_the_base_is_refused_before_the_text_is_read(
    run, recipe, base_folder, tmp_path, said
):
    config = json.loads((base_folder / "config.json").read_text())
    if not said:
        del config["max_position_embeddings"]
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(config))
    window = AutoConfig.from_pretrained(base).max_position_embeddings
    long = 2 * window
    code, _, err = run(
        "train", recipe(base=str(base), model={}, context=0, running=long, batch_tokens=long, micro_tokens=long)
    )
    of = f"the base {base}" if said else "the model"
    assert code == 2 and f"running={long} does not fit into window={window} of {of}: lower running" in err, err
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("wrong", [{"model_type": ["a"]}, {"max_position_embeddings": True}], ids=str)
def test_a_base_with_an_odd_configuration_is_refused(run, recipe, base_folder, tmp_path, wrong):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(json.loads((base_folder / "config.json").read_text()) | wrong))
    code, _, err = run("train", recipe(base=str(base), model={}))
    assert code == 2 and f"can't load the base {base}" in err, err
