"""SIGHUP replaces the replicas of a server; a failure of that is told, but not where the server is being stopped."""

import signal
import threading

import pytest

from sharedllm.cli import serve_ray
from sharedllm.utils.errors import UserError


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
@pytest.mark.parametrize("stopped", [False, True])
def test_a_renewal_that_fails_is_told_unless_the_server_stops(monkeypatch, stopped):
    stopping, deploying, going, told = threading.Event(), threading.Event(), threading.Event(), []

    class Cluster:
        def deploy(self):
            deploying.set()
            going.wait(10)
            raise UserError("the replicas can't be started: the cluster is gone")

    monkeypatch.setattr(serve_ray, "note", lambda line, style=None: told.append(line))
    before = signal.getsignal(signal.SIGHUP)
    try:
        serve_ray._renewing(Cluster(), stopping)
        threads = set(threading.enumerate())
        signal.raise_signal(signal.SIGHUP)
        assert deploying.wait(10)
        (renewing,) = set(threading.enumerate()) - threads
        if stopped:
            stopping.set()
        going.set()
        renewing.join(10)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [line.startswith("error: ") for line in told] == ([False] if stopped else [False, True])
