"""What the server counts, for Prometheus (https://prometheus.io/docs/practices/naming/)."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

OUTCOMES = ("ok", "invalid", "full", "cancelled", "timeout", "error")
CONTENT_TYPE = "text/plain; version=0.0.4"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Metrics:
    """Counters and histograms of one server; any thread may add to them."""

    def __init__(self):
        registry = self._registry = CollectorRegistry()

        def counter(name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"sharedllm_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"sharedllm_{name}", what, registry=registry, buckets=buckets)

        self._requests = counter("requests", "Finished completions, by outcome.", ("outcome",))
        for outcome in OUTCOMES:  # there from the beginning, with 0
            self._requests.labels(outcome)
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._generated = counter("generated_tokens", "Tokens generated.")
        self._duration = histogram("request_duration_seconds", "From a request to the end of its answers.", _SECONDS)
        self._waited = histogram("queue_duration_seconds", "From a request to the beginning of its work.", _SECONDS)
        self._first = histogram("time_to_first_token_seconds", "From a request to its first token.", _SECONDS)
        self._answer = histogram("answer_tokens", "Tokens of all answers to a request.", _TOKENS)
        self._now = _Now()
        registry.register(self._now)

    def finished(self, outcome: str, seconds: float) -> None:
        """A completion ended after some time: one of OUTCOMES."""
        self._requests.labels(outcome).inc()
        self._duration.observe(seconds)

    def waited(self, seconds: float) -> None:
        """The work for a request begins after it waited."""
        self._waited.observe(seconds)

    def answered(self, tokens: int) -> None:
        """A request was answered, with so many tokens."""
        self._answer.observe(tokens)

    def read(self, tokens: int) -> None:
        """Count the prompt tokens of a request."""
        self._prompt.inc(tokens)

    def first_token(self, seconds: float) -> None:
        """Record the time from a request to its first token."""
        self._first.observe(seconds)

    def token(self) -> None:
        self._generated.inc()

    def text(self, waiting: int, running: int, memories: Iterable[tuple[str, int, int]]) -> str:
        """All metrics in Prometheus' text format. waiting, running: current requests. memories: name, tokens and bytes of
        each."""
        self._now.set(waiting, running, memories)
        return generate_latest(self._registry).decode()


def joined(texts: Mapping[str, str]) -> str:
    """The metrics of several servers as one text: each sample has its server's name as the label `replica`."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known.samples += [one._replace(labels={"replica": replica} | one.labels) for one in family.samples]
    registry = CollectorRegistry()
    registry.register(_Given(list(families.values())))
    return generate_latest(registry).decode()


class _Given:
    def __init__(self, families: list[Metric]):
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families

    def describe(self) -> list[Metric]:
        return []


class _Now:
    """What is looked up when it is asked for: memories come and go."""

    def __init__(self):
        self._metrics: list[Metric] = []

    def set(self, waiting: int, running: int, memories: Iterable[tuple[str, int, int]]) -> None:
        tokens = GaugeMetricFamily("sharedllm_memory_tokens", "Tokens of a memory.", labels=["memory"])
        nbytes = GaugeMetricFamily("sharedllm_memory_bytes", "Bytes of a memory on disk.", labels=["memory"])
        for name, count, size in memories:
            # A name that is not UTF-8, as in other replies.
            shown = name.encode("utf-8", "replace").decode()
            tokens.add_metric([shown], count)
            nbytes.add_metric([shown], size)
        self._metrics = [
            GaugeMetricFamily("sharedllm_requests_waiting", "Requests waiting for the model.", waiting),
            GaugeMetricFamily("sharedllm_requests_running", "Requests being answered.", running),
            tokens,
            nbytes,
        ]

    def collect(self) -> list[Metric]:
        return self._metrics
