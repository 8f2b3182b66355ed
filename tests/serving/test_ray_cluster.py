"""What `sharedllm serve --ray` tells Ray of a cluster. No Ray is started."""

import asyncio
import sys
from contextlib import aclosing
from types import ModuleType, SimpleNamespace

import pytest

from sharedllm.serving.errors import ServingError
from sharedllm.serving.identity import Identity
from sharedllm.serving.replicas.asking import Gone
from sharedllm.serving.replicas.cluster import Cluster, Size
from sharedllm.serving.replicas.plan import Plan
from sharedllm.serving.replicas.played import Asked
from sharedllm.utils.clusters import connect
from sharedllm.utils.errors import UserError

PLAN = Plan("m", "m", (), None, 9, None, 1.0, 5, 5, 8)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class RayServeException(Exception):
    pass


class Unavailable(RayServeException):
    pass


class Ray:
    """Ray and Ray Serve, which only write down what they are told."""

    def __init__(self, monkeypatch, **resources):
        self.said, ray = [], ModuleType("ray")
        ray.__dict__.update(
            is_initialized=lambda: False, init=self._init, shutdown=lambda: self.said.append("shutdown")
        )
        ray.__dict__.update(
            cluster_resources=lambda: resources,
            exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
        )
        served, errors = ModuleType("ray.serve"), ModuleType("ray.serve.exceptions")
        errors.__dict__.update(RayServeException=RayServeException, DeploymentUnavailableError=Unavailable)
        served.__dict__.update(start=lambda **_: None, delete=lambda name: self.said.append(f"delete {name}"))
        served.__dict__.update(shutdown=lambda: self.said.append("serve shutdown"), exceptions=errors)
        ray.__dict__.update(serve=served)
        for module in (ray, served, errors):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        for name in ("RAY_USAGE_STATS_ENABLED", "RAY_SERVE_LOG_TO_STDERR", "RAY_worker_niceness"):
            monkeypatch.setenv(name, "0")

    def _init(self, **options):
        self.options = options


def test_what_others_serve_on_a_cluster_stays(monkeypatch):
    ray = Ray(monkeypatch)
    Cluster(PLAN, Size(1, 1), "auto", 8000).stop()
    assert ray.options["address"] == "auto" and len(ray.said) == 2
    assert ray.said[0].startswith("delete sharedllm-") and ray.said[0].endswith("-8000") and ray.said[1] == "shutdown"
    ray.said.clear()
    Cluster(PLAN, Size(1, 1), "", 8000).stop()
    assert ray.said == ["delete sharedllm", "serve shutdown", "shutdown"]


def test_a_cluster_is_started_here_whatever_else_runs(monkeypatch):
    ray = Ray(monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    connect("", 2)
    assert (ray.options["address"], ray.options["num_cpus"]) == ("local", 2)


def test_a_cluster_that_refuses_a_token_is_said(monkeypatch):
    ray = Ray(monkeypatch)

    def init(**options):
        raise ConnectionError("Failed to connect\nto it.")

    monkeypatch.setattr(sys.modules["ray"], "init", init)
    with pytest.raises(UserError, match=r"^no Ray cluster at auto: Failed to connect to it; .* set RAY_AUTH_TOKEN\.$"):
        connect("auto", 1)
    with pytest.raises(UserError, match=r"^no Ray cluster on this machine: Failed to connect to it\.$"):
        connect("", 1)
    assert not ray.said


def test_what_a_cluster_lacks_is_said(monkeypatch):
    Ray(monkeypatch, CPU=4.0)
    assert Cluster(PLAN, Size(2, 3, threads=2), "auto", 1).lacking() == ""
    assert Cluster(PLAN, Size(2, 3, threads=3), "auto", 1).lacking() == "6 CPUs where there are 4"
    assert Cluster(PLAN, Size(1, 1, gpus=0.5), "", 1).lacking() == "0.5 GPUs where there are 0"


class Answer:
    """A handle of a deployment, and the one answer that it gives: parts, then an error. cancelled: whether it was."""

    def __init__(self, *parts, error=None):
        self.parts, self.error, self.cancelled, self.asked = parts, error, False, {}

    def options(self, **options):
        self.asked = options
        return SimpleNamespace(remote=lambda asked: self)

    def cancel(self):
        self.cancelled = True

    async def __aiter__(self):
        for part in self.parts:
            yield part
        if self.error is not None:
            raise self.error


def ask(monkeypatch, answer, most=9):
    Ray(monkeypatch)
    cluster = Cluster(PLAN, Size(1, 1), "", 1)
    cluster._handle = answer

    async def taken():
        async with aclosing(cluster.ask(Asked("POST", "/", b"", (), b"", Identity()), "notes")) as parts:
            found = []
            async for part in parts:
                found.append(part)
                if len(found) == most:
                    break
            return found

    return asyncio.run(taken())


def test_an_answer_that_is_left_is_cancelled_at_its_replica(monkeypatch):
    whole, left = Answer([1], [2]), Answer([1], [2])
    assert ask(monkeypatch, whole) == [[1], [2]] and not whole.cancelled
    assert whole.asked == {"method_name": "ask", "stream": True, "multiplexed_model_id": "notes"}
    assert ask(monkeypatch, left, most=1) == [[1]] and left.cancelled


@pytest.mark.parametrize(
    ("raised", "told"),
    [(RayError(), Gone), (RayServeException(), Gone), (RayTaskError(), RayTaskError), (Unavailable(), ServingError)],
)
def test_what_a_replica_dies_of_is_no_error_of_the_request(monkeypatch, raised, told):
    """It is asked again only if the replica is gone, not if the request failed in it, nor if there can be no other."""
    with pytest.raises(told):
        ask(monkeypatch, Answer([1], error=raised))
