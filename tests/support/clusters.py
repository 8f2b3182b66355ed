"""A Ray cluster of three node processes on this machine, runs of `sharedllm read-corpus` on it, and what kills parts of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

# Bytes; Ray takes no fewer.
STORE = 80 * 2**20


@contextmanager
def cluster(nodes: int = 3) -> Iterator[Any]:
    """A head and workers' nodes, each with one processor; no process of it is left afterwards."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    # The head has no processor, so that no reader dies with what nothing can outlive.
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, object_store_memory=STORE)
        yield made
    finally:
        made.shutdown()


def begin(source: Path, uri: str, model: str, address: str, workers: int = 3, *more: Any) -> subprocess.Popen:
    """A command that reads on a cluster."""
    arguments = [
        "read-corpus",
        source,
        "-o",
        uri,
        "--model",
        model,
        "--workers",
        workers,
        "--cluster",
        address,
        "--json",
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "sharedllm", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def report(process: subprocess.Popen, seconds: float = 300) -> dict[str, Any]:
    """What a command that reads says with --json, and as "told" its lines on stderr."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out) | {"told": err.splitlines()}


def wait_for_parts(folder: Path, count: int, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until so many shards are committed, or the command has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and len(list((folder / "parts").glob("*.json"))) < count:
        time.sleep(0.02)


def readers() -> list[psutil.Process]:
    """The workers that read, whatever started them here."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("MapWorker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(what: str, made: Any, driver: subprocess.Popen, rng: random.Random) -> bool:
    """SIGKILL of a reader, a node or the command; whether there was one to kill."""
    if what == "driver":
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        return True
    if what == "worker":
        there = readers()
        if there:
            rng.choice(there).kill()
        return bool(there)
    made.remove_node(rng.choice(list(made.worker_nodes)), allow_graceful=False)
    made.add_node(num_cpus=1, object_store_memory=STORE)
    return True
