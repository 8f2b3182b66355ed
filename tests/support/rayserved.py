"""`sharedllm serve --ray` as a process, many clients of it, and its replicas as processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil

# A loaded machine takes long to start processes that import torch.
PATIENCE = 400


@contextmanager
def serving(*arguments: Any, before: str = "", port: int = 0) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command and its URL, once it answers. At the end none of its processes is left.

    Args:
        before: a line of Python that the command's process runs first, to change a constant. port: 0 for any that is free.
    """
    started = ["-c", f"{before}\nfrom sharedllm.cli import main; main()"] if before else ["-m", "sharedllm"]
    command = [sys.executable, *started, "serve", *map(str, arguments), "--ray", "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines: list[str] = []
        try:
            assert process.stderr is not None
            while not (lines and " at http://" in lines[-1]):
                line = process.stderr.readline()
                assert line, lines
                lines.append(line)
            reading = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
            reading.start()
            yield process, lines[-1].split(" at ")[1].split("/v1")[0]
        finally:
            family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                for one in family:
                    if one.poll() is None if isinstance(one, subprocess.Popen) else one.is_running():
                        one.kill()


def replicas(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that answer, of those that a process has started; not those of other applications of Ray Serve."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ServeReplica:sharedllm" in " ".join(one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


def post(url: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, str]:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def get(url: str, path: str) -> str:
    with urllib.request.urlopen(url + path, timeout=PATIENCE) as response:
        return response.read().decode()


def words(body: dict[str, Any], said: str) -> str:
    """The text of a whole answer: of a stream only if it ended as one that is complete."""
    if not body.get("stream"):
        return json.loads(said)["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in said.split("\n") if line.startswith("data: {")]
    assert said.endswith("data: [DONE]\n\n") and not any("error" in event for event in events), said[-500:]
    assert events[-1]["choices"][0]["finish_reason"], said[-500:]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events)


def asked_by_many(
    url: str, bodies: list[dict[str, Any]], clients: int, meanwhile: Callable[[], None], after: int
) -> list[tuple[int, str]]:
    """Answers to many requests. meanwhile: what happens once so many are answered."""
    ended, happened = threading.Semaphore(0), []

    def ask(body: dict[str, Any]) -> tuple[int, str]:
        answer = post(url, body)
        ended.release()
        return answer

    def happen() -> None:
        for _ in range(after):
            ended.acquire()
        meanwhile()
        happened.append(time.monotonic())

    with ThreadPoolExecutor(clients + 1) as pool:
        waiting = pool.submit(happen)
        answers = list(pool.map(ask, bodies))
        last = time.monotonic()
        waiting.result()
    assert happened and happened[0] < last, "it happened too late to matter"
    return answers


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.5)
    return False
