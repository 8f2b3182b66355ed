"""Counters in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

import threading
from collections.abc import Iterable

OUTCOMES = ("ok", "invalid", "full", "cancelled", "timeout", "error")


class Metrics:
    """Counters of this process; any thread may add to them."""

    def __init__(self):
        self._lock = threading.Lock()
        self._requests: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self._sums: dict[str, float] = {
            "prompt_tokens": 0,
            "generated_tokens": 0,
            "first_token_seconds": 0.0,
            "first_tokens": 0,
        }

    def finished(self, outcome: str) -> None:
        """A completion ended: one of OUTCOMES."""
        with self._lock:
            self._requests[outcome] += 1

    def read(self, tokens: int) -> None:
        """Count the prompt tokens of a request."""
        self._add(prompt_tokens=tokens)

    def first_token(self, seconds: float) -> None:
        """Record the time from a request to its first token."""
        self._add(first_token_seconds=seconds, first_tokens=1)

    def token(self) -> None:
        self._add(generated_tokens=1)

    def text(self, waiting: int, running: int, memories: Iterable[tuple[str, int, int]]) -> str:
        """All metrics as text. waiting, running: current requests. memories: name, tokens and bytes of each."""
        with self._lock:
            requests, sums = dict(self._requests), dict(self._sums)
        memories = list(memories)
        lines = []

        def add(name: str, kind: str, what: str, values: Iterable[tuple[str, float]]) -> None:
            lines.extend((f"# HELP sharedllm_{name} {what}", f"# TYPE sharedllm_{name} {kind}"))
            lines.extend(f"sharedllm_{name}{labels} {value}" for labels, value in values)

        outcomes = [(f'{{outcome="{outcome}"}}', count) for outcome, count in requests.items()]
        add("requests_total", "counter", "Finished completions, by outcome.", outcomes)
        add("prompt_tokens_total", "counter", "Tokens of prompts.", [("", sums["prompt_tokens"])])
        add("generated_tokens_total", "counter", "Tokens generated.", [("", sums["generated_tokens"])])
        add("requests_waiting", "gauge", "Requests waiting for the model.", [("", waiting)])
        add("requests_running", "gauge", "Requests being answered.", [("", running)])
        lines += [
            "# HELP sharedllm_time_to_first_token_seconds From a request to its first token.",
            "# TYPE sharedllm_time_to_first_token_seconds summary",
            f"sharedllm_time_to_first_token_seconds_sum {sums['first_token_seconds']:.6f}",
            f"sharedllm_time_to_first_token_seconds_count {sums['first_tokens']}",
        ]
        tokens = [(f'{{memory="{_escaped(name)}"}}', count) for name, count, _ in memories]
        add("memory_tokens", "gauge", "Tokens of a memory.", tokens)
        sizes = [(f'{{memory="{_escaped(name)}"}}', size) for name, _, size in memories]
        add("memory_bytes", "gauge", "Bytes of a memory on disk.", sizes)
        return "\n".join(lines) + "\n"

    def _add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
