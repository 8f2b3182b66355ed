"""How long reading takes, at growing lengths, with and without the lower model's shortcut.

The shortcut computes of the last lower layers only what the memory keeps (see `sharedllm.lower`). Both ways of reading are
timed in pairs, right after one another and in alternating order, so that a machine that slows down or is shared with
other work touches both alike; the share saved is taken pair by pair.
"""

import contextlib
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .. import SharedLLMForCausalLM

LENGTHS = (8_192, 16_384, 32_768, 65_536, 131_072, 262_144)


def benchmark_reading(
    model: SharedLLMForCausalLM,
    lengths: Sequence[int] = LENGTHS,
    repeats: int = 3,
    batch_tokens: int | None = 65_536,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Time `model.read` on random tokens.

    Args:
        lengths: numbers of tokens to read, each as one text.
        repeats: pairs of timed runs at each length.
        batch_tokens: most tokens run through the lower model at once.
        seed: of the random tokens.
        progress: called with the number of tokens read since the last call; `total_tokens` in all.

    Returns:
        A dictionary that can be written as JSON:

        lengths         for each length `tokens`, `kept`, `seconds` and `plain_seconds` (whole layers), `saved` (share of
                        time that the shortcut saves), each of the three with median, min, max and values, and
                        `tokens_per_second` of the median
        exponent, plain_exponent    of time over length; None for a single length
        flops           multiplications and additions of both at one length, and the share saved
        model, settings, environment

    Raises:
        ValueError: no length, a length below 1, or no repeats.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths={list(lengths)} must be one or more numbers of tokens, each at least 1.")
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1.")
    with _quiet(model):
        # The first run of a process pays for memory and kernels that later ones reuse.
        for plain in (False, True):
            _seconds(model, _random_ids(model, min(lengths), seed), batch_tokens, plain)
        rows = [
            _measure(model, _random_ids(model, tokens, seed), repeats, batch_tokens, progress) for tokens in lengths
        ]
        flops = count_flops(model, _random_ids(model, min(lengths), seed), batch_tokens)
    medians = {kind: [row[kind]["median"] for row in rows] for kind in ("seconds", "plain_seconds")}
    several = len(set(lengths)) > 1
    return {
        "lengths": rows,
        "exponent": exponent(lengths, medians["seconds"]) if several else None,
        "plain_exponent": exponent(lengths, medians["plain_seconds"]) if several else None,
        "flops": flops,
        "model": _describe(model),
        "settings": {"repeats": repeats, "batch_tokens": batch_tokens, "seed": seed},
        "environment": environment(),
    }


def total_tokens(lengths: Sequence[int], repeats: int) -> int:
    """How many tokens `benchmark_reading` reports as progress."""
    return 2 * repeats * sum(lengths)


def exponent(lengths: Sequence[float], seconds: Sequence[float]) -> float:
    """b of seconds = a · length^b, by least squares on logarithms: 1 is linear, 2 quadratic.

    Raises:
        ValueError: fewer than two different lengths, another number of times, or a value that is not positive.
    """
    if len(lengths) != len(seconds) or len(set(lengths)) < 2:
        raise ValueError(f"{len(lengths)} lengths and {len(seconds)} times: an exponent needs two or more pairs.")
    if min(*lengths, *seconds) <= 0:
        raise ValueError(f"lengths={list(lengths)} and seconds={list(seconds)} must be positive.")
    x, y = [math.log(n) for n in lengths], [math.log(t) for t in seconds]
    return statistics.linear_regression(x, y).slope


def count_flops(model: SharedLLMForCausalLM, ids: Tensor, batch_tokens: int | None = None) -> dict[str, Any]:
    """Multiplications and additions of reading `ids` (1, T), with the shortcut and without.

    Counted in matrix products; attention counts in full, also what a causal mask hides, as in the plainest kernel.
    """
    counts = {}
    for name, plain in (("shortcut", False), ("plain", True)):
        # Fused attention on CPUs is unknown to the counter; the plain kernel is made of products that it knows.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.read(ids, selection="right", batch_tokens=batch_tokens, plain=plain)
        counts[name] = counter.get_total_flops()
    return {"tokens": ids.shape[1], **counts, "saved": 1 - counts["shortcut"] / counts["plain"]}


def environment() -> dict[str, Any]:
    """What figures depend on besides the model."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def format_table(result: dict[str, Any]) -> Table:
    """The result of `benchmark_reading`, for people."""
    table = Table(title="Reading", caption=_caption(result))
    for heading in ("tokens", "kept", "seconds (min–max)", "tokens/s", "whole layers, s (min–max)", "saved (min–max)"):
        table.add_column(heading, justify="right")
    for row in result["lengths"]:
        saved = row["saved"]
        table.add_row(
            f"{row['tokens']:,}",
            f"{row['kept']:,}",
            _spread(row["seconds"]),
            f"{row['tokens_per_second']:,.0f}",
            _spread(row["plain_seconds"]),
            f"{saved['median']:.0%} ({saved['min']:.0%}–{saved['max']:.0%})",
        )
    return table


def _measure(
    model: SharedLLMForCausalLM,
    ids: Tensor,
    repeats: int,
    batch_tokens: int | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Pairs of timed runs over one text."""
    times: dict[bool, list[float]] = {False: [], True: []}
    kept = 0
    for repeat in range(repeats):
        for plain in (False, True) if repeat % 2 == 0 else (True, False):
            seconds, kept = _seconds(model, ids, batch_tokens, plain, progress)
            times[plain].append(seconds)
    tokens = ids.shape[1]
    return {
        "tokens": tokens,
        "kept": kept,
        "seconds": _summary(times[False]),
        "plain_seconds": _summary(times[True]),
        "saved": _summary([1 - short / whole for short, whole in zip(times[False], times[True], strict=True)]),
        "tokens_per_second": tokens / statistics.median(times[False]),
    }


def _seconds(
    model: SharedLLMForCausalLM,
    ids: Tensor,
    batch_tokens: int | None,
    plain: bool,
    progress: Callable[[int], None] | None = None,
) -> tuple[float, int]:
    """Seconds of one read, and how many tokens it kept."""
    _synchronize(ids)
    start = time.perf_counter()
    memory = model.read(ids, selection="right", batch_tokens=batch_tokens, plain=plain, progress=progress)
    _synchronize(ids)
    return time.perf_counter() - start, int(memory.kept.sum())


def _synchronize(ids: Tensor) -> None:
    """Kernels of a GPU run behind Python's back: wait for them."""
    if ids.is_cuda:
        torch.cuda.synchronize(ids.device)


@contextlib.contextmanager
def _quiet(model: SharedLLMForCausalLM) -> Iterator[None]:
    """No gradients and no split noise, so that all runs read the same spans."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _random_ids(model: SharedLLMForCausalLM, tokens: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.text_config.vocab_size, (1, tokens), generator=generator).to(model.device)


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def _describe(model: SharedLLMForCausalLM) -> dict[str, Any]:
    config = model.config
    text = config.text_config
    return {
        "family": text.model_type,
        "layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: getattr(config, name) for name in ("lower_layers", "chunk_size", "ratios", "encoding")},
        "attention": text._attn_implementation,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def _cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _spread(summary: dict[str, Any]) -> str:
    return f"{summary['median']:.3g} ({summary['min']:.3g}–{summary['max']:.3g})"


def _caption(result: dict[str, Any]) -> str:
    flops, machine = result["flops"], result["environment"]
    parts = [f"operations saved at {flops['tokens']:,} tokens: {flops['saved']:.0%}"]
    if result["exponent"] is not None:
        parts.insert(0, f"time grows with length to the power of {result['exponent']:.2f} (1 is linear)")
    parts.append(f"torch {machine['torch']}, {machine['threads']} threads, {machine['gpu'] or machine['cpu']}")
    return "\n".join(parts)
