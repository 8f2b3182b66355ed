"""A signal stops a run after its step, with a checkpoint; what goes on from there equals one run to the bit."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from combined import rarely
from safetensors.torch import load_file

from sharedllm.training.log import read_log
from sharedllm.training.run import _Run
from sharedllm.training.stopping import SIGNALS, Stopping

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def steps_of(output: Path) -> list[int]:
    return [record["step"] for record in read_log(output / "log.jsonl") if "loss" in record]


def records_of(output: Path) -> list[dict]:
    timed = {"tokens_per_second", "memory_mb", "flop_utilisation"}
    return [{name: v for name, v in record.items() if name not in timed} for record in read_log(output / "log.jsonl")]


@pytest.fixture
def signalled(monkeypatch):
    """Send this process signals while it runs a step; returns a function that says which, and in which step."""
    train_step, wanted = _Run.train_step, {}

    def step(self, number):
        for each in wanted.pop(number, []):
            os.kill(os.getpid(), each)
        train_step(self, number)

    monkeypatch.setattr(_Run, "train_step", step)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run where interrupts are ignored
    yield wanted.update
    for number, handler in before.items():
        signal.signal(number, handler)


INT, TERM = SIGNALS


# A command that Ctrl-C stopped leaves it ignored, so that one comes last.
@pytest.mark.parametrize(
    "stops", [{0: TERM, 2: INT}, *rarely({0: TERM, 2: TERM, 4: INT}, {0: INT}, {2: INT}, {4: TERM})], ids=str
)
def test_stopped_by_signals_and_gone_on_with_equals_one_run(run, recipe, tmp_path, signalled, stops):
    """In the first step, in one between and in the last."""
    settings = {"steps": 5, "checkpoint_every": 100}
    assert run("train", recipe("whole", **settings))[0] == 0
    for stop, number in stops.items():
        signalled({stop: [number]})
        code, _, err = run("train", recipe("parts", **settings))
        last = tmp_path / "parts" / "checkpoints" / f"step-{stop + 1:08d}"
        assert code == CODES[number] and not (tmp_path / "parts" / "model").exists()
        assert err.replace("\n", "").count(f"the same command goes on from {last}") == 1
        assert "stopping after this step" in err
        assert steps_of(tmp_path / "parts") == list(range(stop + 1))
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run("train", recipe("parts", **settings))[0] == 0
    assert records_of(tmp_path / "whole") == records_of(tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_a_second_signal_stops_at_once(run, recipe, tmp_path, signalled, number):
    signalled({3: [number, number]})
    code, _, err = run("train", recipe(checkpoint_every=2))
    assert code == CODES[number] and steps_of(tmp_path / "run") == [0, 1, 2]
    assert f"goes on from {tmp_path / 'run' / 'checkpoints' / 'step-00000002'}" in err.replace("\n", "")


def test_other_threads_and_ignored_signals(monkeypatch):
    before, found = signal.getsignal(signal.SIGTERM), []

    def elsewhere():
        with Stopping(print) as stopping:
            found.append(stopping.agreed())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [0] and signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Stopping(print) as stopping:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopping.agreed() == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_launches_several_processes_may_send_a_signal_again(monkeypatch):
    said = []
    with Stopping(said.append, processes=2) as stopping:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.agreed() == signal.SIGTERM and len(said) == 1
        stopping._since -= 2
        with pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [[], ["ddp-cpu"]], ids=["one process", "two processes"])
def test_a_run_of_its_own_is_stopped(run, recipe, tmp_path, launch):
    settings = {"steps": 400, "checkpoint_every": 1000, "validation": {"every": 1000}}
    path, output = recipe("parts", **settings), tmp_path / "parts"
    config = [Path(__file__).parents[2] / "recipes" / "accelerate" / f"{name}.yaml" for name in launch]
    launcher = [word for file in config for word in ("-m", "accelerate.commands.launch", "--config_file", str(file))]
    command = [sys.executable, *launcher, "-m", "sharedllm", "train", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and len(steps_of(output)) < 3:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)  # as a terminal does: to all processes
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and (launch or process.returncode == 143), err
    assert ("; 2 processes" in err) == bool(launch)
    (saved,) = (output / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step-")) == len(steps_of(output))
    assert f"goes on from {saved}" in err.replace("\n", "")
