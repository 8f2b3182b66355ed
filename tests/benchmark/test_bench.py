"""Runs of the benchmark: measuring, saving, resuming and reporting. Timings are never asserted."""

import itertools
import json
import time
from functools import partial

import pytest
import torch
from benches import NEW, TOY, toy_systems
from combined import rarely
from torch import Tensor
from typer.testing import CliRunner

from sharedllm.benchmark.measure import Plan, bench, run_once
from sharedllm.benchmark.memory import in_child, is_out_of_memory, peak_growth
from sharedllm.benchmark.plot import draw
from sharedllm.benchmark.report import OURS, Spread, _ratios, exponents, markdown, rows
from sharedllm.benchmark.results import DONE, OOM, Results
from sharedllm.benchmark.shapes import SHAPES
from sharedllm.cli.common import tokens_of_length
from sharedllm.systems.operations import Operations
from sharedllm.systems.timed import State, TimedSystem
from sharedllm.utils.hardware import environment, peak_operations


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """What the machine can do is measured by large products for seconds; here by a small one."""
    measured = partial(peak_operations, seconds=0.0, size=64)
    monkeypatch.setattr("sharedllm.benchmark.results.peak_operations", lambda device, dtype: measured(device, dtype))


@pytest.fixture(scope="module")
def made() -> dict[str, TimedSystem]:
    return toy_systems()


def allocate(megabytes: int) -> int:
    return peak_growth(lambda: torch.ones(megabytes * 250_000).sum())


def exhaust() -> None:
    raise MemoryError("no more")


@pytest.mark.slow
def test_peak_memory_of_a_child():
    small, large = in_child(allocate, 8), in_child(allocate, 80)
    assert 70e6 < large - small < 90e6
    with pytest.raises(MemoryError, match="no more"):
        in_child(exhaust)
    with pytest.raises(RuntimeError, match="TypeError"):
        in_child(allocate, None)


def test_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError()) and is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**58)
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


class Stub:
    """Takes as long as `seconds` says for a length, by a fake clock."""

    def __init__(self, name: str, clock: "Clock", seconds, broken: int | None = None):
        self.name, self.clock, self.seconds, self.broken, self.reads = name, clock, seconds, broken, []
        self.running = TOY.window - NEW

    def read(self, ids: Tensor) -> State:
        length = ids.shape[1]
        self.reads.append(length)
        if self.broken is not None and length >= self.broken:
            raise torch.OutOfMemoryError("out of memory")
        self.clock.now += self.seconds(length)
        return State()

    def first(self, state: State, running: Tensor) -> Tensor:
        self.clock.now += 0.5
        return torch.zeros(1, 1, 5)

    def step(self, state: State, token: Tensor) -> Tensor:
        self.clock.now += 0.25
        return torch.zeros(1, 1, 5)

    def memory_bytes(self, state: State) -> int:
        return 10

    def operations(self, length: int, causal: bool = False) -> Operations:
        return Operations(length, 1, 1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stubs(monkeypatch):
    """Ours is linear; the other is quadratic, and runs out of memory at 512 tokens or more."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr("sharedllm.benchmark.results.peak_operations", lambda *_: 1000.0)
    return {
        "sharedllm": Stub("sharedllm", clock, lambda n: n / 64),
        "slow": Stub("slow", clock, lambda n: (n / 64) ** 2),
        "greedy": Stub("greedy", clock, lambda n: n / 32, broken=256),
    }


def plan(**changes) -> Plan:
    settings = {"lengths": [64, 128, 256, 512], "repeats": 2, "new_tokens": NEW, "limit_seconds": 40.0}
    return Plan(TOY, ["sharedllm", "slow", "greedy"], **settings | changes)


def test_run(stubs, tmp_path):
    """The stubs' numbers are in the table and in the file."""
    lines = []
    results = bench(plan(), tmp_path, lines.append, stubs, peak=lambda name, length: 1000 * length)
    table = {(row.system, row.length): row for row in rows(results)}
    ours, slow = table["sharedllm", 256], table["slow", 256]
    decode = NEW * 0.25
    assert ours.seconds["read"] == Spread(4, 4, 4) and ours.seconds["first"].median == 0.5
    assert ours.seconds["decode"].median == decode and ours.rate.median == pytest.approx(4)
    assert slow.ratio.median == pytest.approx((16 + 0.5 + decode) / (4 + 0.5 + decode))
    assert ours.ratio == Spread(1, 1, 1)
    assert all(row.left == 1 for row in table.values() if row.status == DONE)
    assert ours.utilisation["read"] == pytest.approx(256 / 4 / 1000)
    assert (ours.peak_bytes, ours.memory_bytes) == (256_000, 10)
    assert table["greedy", 256].status == OOM and table["greedy", 256].seconds == {}
    assert table["greedy", 512].status == "skipped: OOM at 256 tokens"
    # 5.25 s at 128 and 17.25 at 256 predict 61.5 s.
    assert table["slow", 512].status == "skipped: predicted 62 s"
    assert 512 not in stubs["slow"].reads and 512 not in stubs["greedy"].reads
    fits = exponents(list(table.values()))
    assert fits["sharedllm"]["read"].exponent == pytest.approx(1) and fits["slow"]["read"].exponent == pytest.approx(2)
    assert fits["sharedllm"]["peak_bytes"].exponent == pytest.approx(1)
    text = markdown(Results.load(tmp_path))
    assert text == markdown(results)
    assert "| 512 | slow | skipped: predicted 62 s |" in text and "| 256 | greedy | OOM |" in text
    assert "Growth with length" in text and "| sharedllm | 1.00 ± 0.00 |" in text
    assert any("256 tokens, greedy: OOM" in line for line in lines)
    figures = draw(rows(results), "toy", tmp_path)
    assert [path.name for path in figures] == ["time.png", "memory.png"] and all(
        p.stat().st_size > 5000 for p in figures
    )


def test_what_is_left_of_the_decoding_rate(stubs, tmp_path):
    """Relative to the system's own shortest length."""
    ours = stubs["sharedllm"]

    def step(state: State, token: Tensor) -> Tensor:
        ours.clock.now += 0.25 if ours.reads[-1] < 256 else 1.0
        return torch.zeros(1, 1, 5)

    ours.step = step
    results = bench(plan(), tmp_path, systems=stubs, peak=lambda name, length: 1)
    left = {row.length: row.left for row in rows(results) if row.system == "sharedllm"}
    assert left == {64: 1, 128: 1, 256: 0.25, 512: 0.25}
    assert "| 0.25 |" in markdown(results)


def test_resumes_without_measuring_again(stubs, tmp_path):
    def peak(name: str, length: int) -> int:
        asked.append((name, length))
        return 1

    asked: list = []
    bench(plan(lengths=[64, 128], repeats=1), tmp_path, systems=stubs, peak=peak)
    first = json.loads((tmp_path / "bench.json").read_text())
    before = {name: len(stub.reads) for name, stub in stubs.items()}
    bench(plan(lengths=[64, 128], repeats=1), tmp_path, systems=stubs, peak=peak)
    assert {name: len(stub.reads) for name, stub in stubs.items()} == before
    again = json.loads((tmp_path / "bench.json").read_text())
    assert again["cells"] == first["cells"] and len(again["sessions"]) == 2
    # More repeats and lengths are added to existing results; each system is warmed up once per start.
    results = bench(plan(lengths=[64, 128, 256], repeats=2), tmp_path, systems=stubs, peak=peak)
    assert stubs["sharedllm"].reads[before["sharedllm"] :] == [32, 64, 128, 256, 256]
    assert [run["session"] for run in results.cell("slow", 64)["runs"]] == [0, 2]
    assert len(asked) == len(set(asked)) == 9
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="differs in seed"):
        bench(plan(seed=1), tmp_path, systems=stubs, peak=peak)


def test_a_run_that_was_stopped_keeps_what_it_has(stubs, tmp_path):
    def stop(length: int) -> float:
        raise KeyboardInterrupt

    stubs["greedy"].seconds = stop
    with pytest.raises(KeyboardInterrupt):
        bench(plan(lengths=[64]), tmp_path, systems=stubs, peak=lambda *_: 1)
    cells = Results.load(tmp_path).cells
    assert [(c["system"], len(c["runs"])) for c in cells] == [("sharedllm", 1), ("slow", 1), ("greedy", 0)]
    assert len(cells[0]["runs"][0]) == 4


def test_rates_are_compared_with_the_fastest_product(stubs, tmp_path, monkeypatch):
    """A start on a loaded machine does not make the systems look better."""
    speeds = iter([300.0, 300.0] + [500.0, 200.0] * 10)
    monkeypatch.setattr("sharedllm.benchmark.results.peak_operations", lambda *_: next(speeds))
    bench(plan(lengths=[64]), tmp_path, systems=stubs, peak=lambda *_: 1)
    monkeypatch.setattr("sharedllm.benchmark.results.peak_operations", lambda *_: 100.0)
    results = bench(plan(lengths=[64, 128]), tmp_path, systems=stubs, peak=lambda *_: 1)
    assert [session["peak_operations"] for session in results.sessions] == [
        {"bf16": 500, "fp32": 300}, {"bf16": 100, "fp32": 100},
    ]  # fmt: skip
    row = rows(results)[-3]
    cell = results.cell("sharedllm", 128)
    speed = cell["operations"]["read"] / row.seconds["read"].median
    assert row.system == "sharedllm" and row.utilisation["read"] == pytest.approx(
        speed / results.peak(results.about["dtype"])
    )
    assert results.peak("bf16") == 500


def test_peak_memory_alone(stubs, tmp_path):
    """No system is run here, and a later start adds times to the same cells without measuring memory again."""
    asked: list = []

    def peak(name: str, length: int) -> int:
        asked.append((name, length))
        return 1_000_000 * length

    results = bench(plan(lengths=[64, 128], repeats=0), tmp_path, systems=stubs, peak=peak)
    assert {cell["status"] for cell in results.cells} == {"peak memory only"} and len(asked) == 6
    assert not any(stub.reads for stub in stubs.values())
    text = markdown(results)
    assert "| 64 | sharedllm | peak memory only | | | | | | 64.0 | | | |" in text and "| slow | – | – | 1.00 |" in text
    assert [path.name for path in draw(rows(results), "toy", tmp_path)] == ["memory.png"]
    results = bench(plan(lengths=[64, 128], repeats=1), tmp_path, systems=stubs, peak=peak)
    assert len(asked) == 6 and results.cell("slow", 128)["status"] == DONE


def test_time_alone(stubs, tmp_path, monkeypatch):
    """A later start adds peak memory to existing times."""
    monkeypatch.setattr("sharedllm.benchmark.measure._peak_in_child", lambda plan, name, length: 1_000_000)
    results = bench(plan(lengths=[64], peaks=False), tmp_path, systems=stubs)
    before = [list(cell["runs"]) for cell in results.cells]
    assert not any("peak_bytes" in cell for cell in results.cells) and "| – |" in markdown(results)
    assert [path.name for path in draw(rows(results), "toy", tmp_path)] == ["time.png"]
    results = bench(plan(lengths=[64]), tmp_path, systems=stubs)
    assert [cell["runs"] for cell in results.cells] == before
    assert {(cell["status"], cell["peak_bytes"]) for cell in results.cells} == {(DONE, 1_000_000)}


def test_errors_that_are_not_of_memory_stop_the_run(stubs, tmp_path):
    def fail(length: int) -> float:
        raise RuntimeError("shapes differ")

    stubs["slow"].seconds = fail
    with pytest.raises(RuntimeError, match="shapes differ"):
        bench(plan(), tmp_path, systems=stubs, peak=lambda *_: 1)


def test_memory_that_runs_out_in_the_child_is_oom(stubs, tmp_path):
    def peak(name: str, length: int) -> int:
        if name == "slow":
            raise MemoryError
        return 1

    results = bench(plan(lengths=[64]), tmp_path, systems=stubs, peak=peak)
    assert results.cell("slow", 64)["status"] == OOM and not stubs["slow"].reads
    assert results.cell("sharedllm", 64)["status"] == DONE


def test_a_run_without_decoding(stubs, tmp_path):
    """It has times, but no rate."""
    alone = plan(lengths=[64], new_tokens=0, running=TOY.window - NEW)
    results = bench(alone, tmp_path, systems=stubs, peak=lambda name, length: length)
    for row in rows(results):
        assert row.status == DONE and (row.rate, row.left, row.seconds["decode"].median) == (None, None, 0)
    text = markdown(results)
    assert "| 64 | sharedllm | 1 (1–1) | 0.5 (0.5–0.5) | – | – | 1.5 (1.5–1.5) |" in text
    assert "Growth" not in text, "one length says nothing of growth"


def test_results_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="sharedllm bench"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"lengths": []}, "lengths"), ({"lengths": [0]}, "lengths"), ({"dtype": "fp8"}, "dtype")]
    + [
        ({"repeats": -1}, "repeats"),
        ({"repeats": 0, "device": "cuda"}, "repeats"),
        ({"repeats": 0, "peaks": False}, "repeats=0: give at least 1"),
        ({"new_tokens": 16}, "new_tokens"),
        ({"new_tokens": -1}, "new_tokens"),
        ({"running": 30}, "running=30"),
    ],
)
def test_plan_refuses(change, name):
    with pytest.raises(ValueError, match=name):
        plan(**change)


def test_spread():
    assert Spread.of([3.0]) == Spread(3, 3, 3)
    assert Spread.of([1.0, 2.0, 4.0, 8.0, 16.0]) == Spread(4, 2, 8)
    assert Spread(4, 2, 8).map(lambda s: 8 / s) == Spread(2, 1, 4)


def test_environment_and_peak():
    about = environment()
    assert about["torch"] == torch.__version__ and about["threads"] == torch.get_num_threads()
    assert peak_operations(torch.device("cpu"), torch.float32, 0.0) > 1e8
    # Where there is no time for more, a small product is all: a large one in bf16 takes a minute on some CPUs.
    ticks = itertools.count(0.0, 2.0)
    assert peak_operations(torch.device("cpu"), torch.float32, 0.0, clock=lambda: next(ticks)) == 2 * 256**3 / 2
    ticks = iter([0.0, 0.0, 0.0, 2.0])  # of a clock that did not tick during the first one
    assert peak_operations(torch.device("cpu"), torch.float32, 0.0, clock=lambda: next(ticks)) == 2 * 512**3 / 2
    ticks = itertools.count(0.0, 2.0)
    assert peak_operations(torch.device("cpu"), torch.float32, 0.0, 64, lambda: next(ticks)) == 2 * 64**3 / 2


@pytest.mark.parametrize("apart", [False, *rarely(True)])
def test_real_systems_run_in_the_plan(made, tmp_path, monkeypatch, apart):
    """Their peak memory is measured in a process of its own, which takes seconds to start, or here in this one."""
    if not apart:
        monkeypatch.setattr("sharedllm.benchmark.measure.in_child", lambda function, *arguments: function(*arguments))
    small = Plan(TOY, ["sharedllm", "beacon"], [64], dtype="fp32", repeats=1, new_tokens=NEW)
    results = bench(small, tmp_path, systems=made)
    assert all(cell["status"] == DONE and cell["peak_bytes"] >= 0 for cell in results.cells)
    with torch.no_grad():
        assert set(run_once(made["window"], small.ids(64), 1)) == {"read", "first", "decode", "memory_bytes"}


@pytest.mark.parametrize(
    ("text", "tokens"), [("4096", 4096), (" 4k", 4096), ("1M", 2**20), ("4.5K", 4608), ("0", 0), ("2w", 64)]
)
def test_lengths(text, tokens):
    assert tokens_of_length(text, window=32) == tokens


@pytest.mark.parametrize("text", ["", "K", "-4K", "4.3", "nan", "4G"])
def test_wrong_lengths(text):
    with pytest.raises(ValueError, match="--lengths"):
        tokens_of_length(text, window=32)


@pytest.mark.parametrize("option", ["--system", *rarely("--contenders")])
def test_command(monkeypatch, tmp_path, option):
    import typer

    from sharedllm.cli import bench as command_module

    monkeypatch.setitem(SHAPES, "tiny", TOY)
    monkeypatch.setattr("sharedllm.benchmark.measure._peak_in_child", lambda plan, name, length: length)
    app = typer.Typer()
    app.command()(command_module.command)
    options = ["--quick", "--lengths", "64,128", option, "sharedllm,window", "--new-tokens", "2"]
    done = CliRunner().invoke(app, [*options, "--device", "cpu", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.json", "memory.png", "report.md", "time.png"]
    assert "| 128 | sharedllm |" in done.output and OURS in (tmp_path / "report.md").read_text()


def test_results_of_before_are_read(tmp_path):
    """Old files call a system a contender."""
    content = {"about": {}, "sessions": [], "cells": [{"contender": "full", "length": 64, "status": OOM, "runs": []}]}
    (tmp_path / "bench.json").write_text(json.dumps(content))
    assert Results.load(tmp_path).cell("full", 64)["status"] == OOM


def test_times_are_compared_within_a_session():
    def runs(*pairs):
        return [{"session": session, "read": seconds, "first": 0.0, "decode": 0.0} for session, seconds in pairs]

    ours = runs((0, 1.0), (1, 4.0), (1, 5.0))
    assert _ratios(runs((1, 8.0)), ours) == [2.0], "not by the first session, on another day"
    assert _ratios(runs((0, 3.0), (1, 8.0), (1, 5.0)), ours) == [3.0, 2.0, 1.0]
    assert _ratios(runs((2, 8.0)), ours) == []
