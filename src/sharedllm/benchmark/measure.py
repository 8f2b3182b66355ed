"""Measure systems at growing lengths, alternating: seconds of each part, peak memory, and the reason for each skipped cell."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..systems.timed import Setting, TimedSystem
from ..utils.errors import UserError
from ..utils.hardware import environment
from ..utils.version import __version__
from .fit import predict
from .memory import in_child, is_out_of_memory, peak_growth
from .results import DONE, OOM, PEAK_ONLY, Cell, Results
from .shapes import Shape
from .systems import check_names, make_timed

PARTS = ("read", "first", "decode")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Plan:
    """The measurement to make.

    lengths        tokens before the running text
    dtype          "bf16" or "fp32"
    repeats        runs of each system at each length, alternating; 0 for peak memory alone, on a CPU
    new_tokens     tokens decoded one by one after the first; 0 for none, and then running text in one pass has no cache
    limit_seconds  cells that are expected to take longer are skipped
    peaks          measure peak memory too, on a CPU in a separate run
    running        tokens of running text, for instance of a question; None for the window minus the new tokens
    """

    shape: Shape
    systems: Sequence[str]
    lengths: Sequence[int]
    dtype: str = "bf16"
    device: str = "cpu"
    repeats: int = 3
    new_tokens: int = 32
    batch_tokens: int | None = None
    limit_seconds: float = 600.0
    seed: int = 0
    peaks: bool = True
    running: int | None = None

    def __post_init__(self):
        if not self.systems or not self.lengths or min(self.lengths) < 1:
            raise UserError(
                f"lengths={list(self.lengths)} and systems={list(self.systems)}: "
                "name one or more of each; a length is at least 1 token."
            )
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype!r} is not known: use one of {', '.join(DTYPES)}.")
        # Some systems use half a window of running text.
        if not 0 <= self.new_tokens < self.shape.window // 2:
            raise UserError(
                f"new_tokens={self.new_tokens} must be 0 … {self.shape.window // 2 - 1}, below half a window."
            )
        if self.running is not None and not 1 <= self.running <= self.shape.window - self.new_tokens:
            raise UserError(
                f"running={self.running} must be 1 … {self.shape.window - self.new_tokens}: the window holds "
                f"{self.shape.window} tokens with {self.new_tokens} new ones."
            )
        if self.repeats < (0 if self.device == "cpu" and self.peaks else 1):
            raise UserError(
                f"repeats={self.repeats}: give at least 1, or 0 for peak memory alone, which only a CPU needs a run for."
            )

    @property
    def setting(self) -> Setting:
        return self.shape.setting(self.new_tokens, self.batch_tokens or self.shape.batch_tokens, self.running)

    def make(self, names: Sequence[str]) -> dict[str, TimedSystem]:
        return make_timed(names, self.shape, self.setting, DTYPES[self.dtype], torch.device(self.device), self.seed)

    def ids(self, length: int) -> Tensor:
        """(1, length + running) random tokens: context and running text."""
        generator, tokens = torch.Generator().manual_seed(self.seed), length + self.setting.running_tokens
        return torch.randint(self.shape.vocab_size, (1, tokens), generator=generator).to(self.device)

    def about(self) -> dict[str, Any]:
        """Everything that decides the numbers. Systems, lengths, repeats, the limit and peaks may change when a run
        resumes."""
        about = asdict(self) | {"batch_tokens": self.setting.batch_tokens}
        for name in ("systems", "lengths", "repeats", "limit_seconds", "peaks"):
            del about[name]
        return about | {"environment": {"sharedllm": __version__} | environment()}


# (system, length) → peak memory in bytes, where it is measured separately from time.
Peak = Callable[[str, int], int]


def bench(
    plan: Plan,
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
    systems: Mapping[str, TimedSystem] | None = None,
    peak: Peak | None = None,
) -> Results:
    """Measure every missing cell; each measurement is saved at once.

    Args:
        folder: of `bench.json`; an interrupted run resumes.
        progress: called with one line per cell.
        systems: by name; default: built by the plan.
        peak: measures peak memory; default on a CPU: in a separate process. On a GPU the allocator reports it in every run.

    Raises:
        UserError: the folder holds another run, or there is no such system.
    """
    device = torch.device(plan.device)
    if systems is None:
        check_names(plan.systems)
    results = Results.begin(folder, plan.about())
    results.see_peaks(device, DTYPES)
    # If only peak memory is measured, each model is built in the process that measures it.
    made = dict(systems or (plan.make(plan.systems) if plan.repeats else {}))
    if peak is None and device.type == "cpu" and plan.peaks:
        peak = partial(_peak_in_child, plan)
    warm: set[str] = set()
    # A warm-up long enough for every kernel, but short even if only long lengths remain.
    short = min(*plan.lengths, plan.shape.window)
    for length in sorted(set(plan.lengths)):
        pending = [name for name in plan.systems if _is_open(plan, results, name, length, progress, peak is not None)]
        for name in pending:
            cell = results.cell(name, length)
            if peak is not None and "peak_bytes" not in cell:
                _attempt(cell, partial(_measure_peak, peak, cell))
                results.save()
        for repeat in range(plan.repeats if pending else 0):
            results.see_peaks(device, DTYPES)
            # Vary the order: no system is always first, when the machine is coolest, or always after the same one.
            shift = repeat % len(pending)
            for name in pending[shift:] + pending[:shift]:
                cell = results.cell(name, length)
                if cell["status"] == OOM or len(cell["runs"]) > repeat:
                    continue
                if name not in warm:
                    _attempt(cell, lambda n=name: run_once(made[n], plan.ids(short), min(2, plan.new_tokens)))
                    warm.add(name)
                if cell["status"] != OOM:
                    _attempt(cell, partial(_measure, plan, made[name], cell, len(results.sessions) - 1))
                results.save()
        for name in pending:
            progress(_line(results.cell(name, length)))
    return results


def run_once(system: TimedSystem, ids: Tensor, new_tokens: int) -> dict[str, float]:
    """Seconds of reading, of the first token and of the others, and the bytes kept of the context."""
    seconds: dict[str, float] = {}
    start = _now(ids)
    border = ids.shape[1] - system.running
    state = system.read(ids[:, :border])
    kept, seconds["read"] = system.memory_bytes(state), _now(ids) - start
    start = _now(ids)
    logits = system.first(state, ids[:, border:])
    seconds["first"] = _now(ids) - start
    start = _now(ids)
    for _ in range(new_tokens):
        logits = system.step(state, logits[:, -1].argmax(-1, keepdim=True))
    seconds["decode"] = _now(ids) - start
    return seconds | {"memory_bytes": kept}


def _measure(plan: Plan, system: TimedSystem, cell: Cell, session: int) -> None:
    """Add a run to a cell."""
    gpu = plan.device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    run: dict[str, Any] = run_once(system, plan.ids(cell["length"]), plan.new_tokens)
    if gpu:
        cell["peak_bytes"] = max(cell.get("peak_bytes", 0), torch.cuda.max_memory_allocated() - before)
    cell["memory_bytes"] = run.pop("memory_bytes")
    cell["operations"] = asdict(system.operations(cell["length"], causal=True))
    cell["runs"].append(run | {"session": session})
    cell["status"] = DONE


def _measure_peak(peak: Peak, cell: Cell) -> None:
    cell["peak_bytes"] = peak(cell["system"], cell["length"])
    cell["status"] = DONE if cell["runs"] else PEAK_ONLY


def _attempt(cell: Cell, work: Callable[[], object]) -> None:
    """Do the work; if memory runs out, record that in the cell and drop its runs."""
    failed = False
    try:
        with torch.no_grad():
            work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    if failed:
        # After the handler, because the exception keeps the frames' tensors alive.
        cell.update(status=OOM, runs=[])
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_open(
    plan: Plan, results: Results, name: str, length: int, progress: Callable[[str], None], apart: bool
) -> bool:
    """Whether there is something to measure; if not, the cell says why. apart: peak memory is measured separately from
    time."""
    cell = results.cell(name, length)
    timed, weighed = len(cell["runs"]) >= plan.repeats, "peak_bytes" in cell or not apart
    if cell["status"] == OOM or (timed and weighed):
        return False
    before = [c for c in results.of(name) if c["length"] < length]
    failed = [c["length"] for c in before if c["status"] == OOM]
    reason = f"skipped: OOM at {failed[0]} tokens" if failed else None
    measured = [c for c in before if c["status"] == DONE]
    seconds = predict([c["length"] for c in measured], [_total(c) for c in measured], length)
    if reason is None and not cell["runs"] and seconds is not None and seconds > plan.limit_seconds:
        reason = f"skipped: predicted {seconds:.0f} s"
    if reason is not None:
        cell["status"] = reason
        results.save()
        progress(_line(cell))
    return reason is None


def _peak_in_child(plan: Plan, name: str, length: int) -> int:
    return in_child(_peak, plan, name, length)


def _peak(plan: Plan, name: str, length: int) -> int:
    """Peak memory above the weights of a system that is alone in a process."""
    with torch.no_grad():
        system = plan.make([name])[name]
        # Exclude memory that libraries allocate once.
        new_tokens = min(1, plan.new_tokens)
        run_once(system, plan.ids(plan.shape.chunk_size), new_tokens)
        ids = plan.ids(length)
        return peak_growth(lambda: run_once(system, ids, new_tokens))


def _total(cell: Cell) -> float:
    return statistics.median(sum(run[part] for part in PARTS) for run in cell["runs"])


def _line(cell: Cell) -> str:
    what = f"{_total(cell):.3g} s" if cell["status"] == DONE else cell["status"]
    return f"{cell['length']:,} tokens, {cell['system']}: {what}"


def _now(ids: Tensor) -> float:
    """GPU kernels run asynchronously: wait for them."""
    if ids.is_cuda:
        torch.cuda.synchronize(ids.device)
    return time.perf_counter()
