"""Measure a server by the number of its clients: tokens per second, and time to the first token.

Each client asks, reads the answer as a stream, and asks again at once. Every question is new, so nothing is answered from a
cache. Answers are kept from ending before they have all their tokens, so all are equally long. The numbers of clients take turns in every round, in both directions, so that other load on the machine meets all alike.
"""

import hashlib
import http.client
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ..utils.errors import UserError, at_least_one
from ..utils.files import write_text
from ..utils.hardware import command_line, environment
from ..utils.version import __version__

FILE = "serve.json"
# Characters of the text that a question quotes.
QUOTED = 60


@dataclass(frozen=True)
class Plan:
    """The measurement to make.

    clients  numbers of clients; the first is what the others are compared with
    answers  of each client in a round, at least; a round has as many for each number of clients
    tokens   of an answer. batch: of the server
    ends     tokens that end an answer, which are made unlikely
    """

    model: str
    memories: Sequence[str]
    clients: Sequence[int]
    rounds: int = 3
    answers: int = 2
    tokens: int = 64
    batch: int = 8
    seed: int = 0
    ends: Sequence[int] = ()

    def __post_init__(self):
        if not self.clients or min(self.clients) < 1:
            raise UserError(f"clients={list(self.clients)}: name one or more numbers of at least 1.")
        for name in ("rounds", "answers", "tokens", "batch"):
            at_least_one(name, getattr(self, name))

    @property
    def per_round(self) -> int:
        """Answers in a round."""
        return self.answers * max(self.clients)


@dataclass(frozen=True)
class Served:
    """A server for a measurement. processor: seconds of processor time that it has used, if known."""

    url: str
    processor: Callable[[], float | None]


def measure(plan: Plan, server: Served, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure a server; returns the results, which are written to the folder after each cell. An interrupted run goes on.

    Raises:
        UserError: the folder holds results of other settings, or the server does not answer.
    """
    results = begun(plan, folder)
    source = Questions(server.url, plan.seed)
    name, bias = source.model, {str(end): -100 for end in plan.ends}
    ask(server.url, name, next(source), 2)  # not measured: the first answer loads what the others find loaded
    for number in range(plan.rounds):
        for clients in plan.clients if number % 2 == 0 else list(reversed(plan.clients)):
            if any((cell["clients"], cell["round"]) == (clients, number) for cell in results["cells"]):
                continue
            questions = [next(source) for _ in range(plan.per_round)]
            used, load, start = server.processor(), os.getloadavg()[0], time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                answers = list(pool.map(lambda q: ask(server.url, name, q, plan.tokens, bias), questions))
            seconds, after = time.perf_counter() - start, server.processor()
            results["cells"].append(
                {
                    "clients": clients,
                    "round": number,
                    "seconds": seconds,
                    "processor_seconds": None if used is None or after is None else after - used,
                    "load": [load, os.getloadavg()[0]],
                    "answers": answers,
                }
            )
            write_text(folder / FILE, json.dumps(results, indent=1))
            rate = sum(answer["tokens"] for answer in answers) / seconds
            note(f"round {number + 1}, {clients} clients: {rate:.1f} tokens/s in {seconds:.0f} s")
    return results


def begun(plan: Plan, folder: Path) -> dict[str, Any]:
    """New results, or those in the folder, to continue.

    Raises:
        UserError: they are of another run.
    """
    settings = asdict(plan) | {"model": Path(plan.model).name, "memories": [Path(m).name for m in plan.memories]}
    files = [_files_of(Path(name)) for name in (plan.model, *plan.memories)]
    about = {"plan": settings, "files": files, "environment": environment(), "sharedllm": __version__}
    about = json.loads(json.dumps(about))
    results = {"about": about, "sessions": [], "cells": []}
    if (folder / FILE).is_file():
        results = loaded(folder)
        # Older results do not say which files they are of.
        known = {"files": about["files"]} | results["about"]
        if changed := [key for key in about if known.get(key) != about[key]]:
            raise UserError(f"{folder} holds another run, which differs in {', '.join(changed)}: name another folder.")
    results["sessions"].append({"command": command_line()})
    return results


def _files_of(path: Path) -> str:
    """What tells a model or a memory from another of its name: a hash of its files' names and sizes, and of what its JSON files say;
    "" for what is not here, such as a model of the hub."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16] if files else ""


def loaded(folder: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: the folder holds no results.
    """
    try:
        results = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {name: results[name] for name in ("about", "sessions", "cells")}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{folder} holds no results: name a folder that `sharedllm bench serve` made.") from None


class Questions:
    """New questions without end, each about some words of the served documents, over all memories in turn.

    model  name of the model without a memory
    """

    def __init__(self, url: str, seed: int):
        self.url, self._random = url, random.Random(seed)
        self.model = fetched(url, "/v1/models")["data"][0]["id"]
        documents = [
            (memory["id"], document["name"], document["characters"])
            for memory in fetched(url, "/v1/memories")["data"]
            for document in memory["documents"]
            if document["characters"] > QUOTED
        ]
        if not documents:
            raise UserError("the memories hold no text to ask about: read documents into one with `sharedllm read`.")
        self._documents = itertools.cycle(documents)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return self

    def __next__(self) -> dict[str, str]:
        memory, name, size = next(self._documents)
        start = self._random.randrange(size - QUOTED)
        path = f"/v1/memories/{quote(memory, safe='')}/documents/{quote(name, safe='')}"
        words = " ".join(fetched(self.url, f"{path}?start={start}&end={start + QUOTED}")["text"].split()[1:-1])
        return {
            "memory": memory,
            "text": f"Tell the part of the text in which it says “{words}”, and what comes after it.",
        }


def fetched(url: str, path: str) -> Any:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return answered(response.status, json.loads(response.read()))
    finally:
        connection.close()


def answered(status: int, body: Any) -> Any:
    if status != 200:
        raise UserError(f"the server answers {status}: {body.get('error', {}).get('message', body)}")
    return body


def ask(
    url: str, model: str, question: dict[str, str], tokens: int, bias: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Ask, and read the answer as a stream: seconds to its first piece and to its end, tokens generated.

    Args:
        bias: by token, added to its scores.

    Raises:
        UserError: the server refuses it, or breaks off.
    """
    body = {
        "model": f"{model}:{question['memory']}",
        "messages": [{"role": "user", "content": question["text"]}],
        "max_tokens": tokens,
        "logit_bias": bias or {},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, usage = time.perf_counter(), None, None
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=3600)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            answered(response.status, json.loads(response.read()))
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise UserError(f"the server breaks off: {event['error']['message']}")
            if first is None and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter() - start
            usage = event.get("usage") or usage
    finally:
        connection.close()
    total = time.perf_counter() - start
    if usage is None:
        raise UserError("the server's answer has no end: its log says why.")
    # An answer without any text has its first token at its end.
    return {"first": total if first is None else first, "total": total, "tokens": usage["completion_tokens"]}


@contextmanager
def serving(plan: Plan) -> Iterator[Served]:
    """`sharedllm serve` in a process of its own, on a free port; stopped at the end.

    Raises:
        UserError: it does not start.
    """
    options = [
        "--model",
        plan.model,
        "--port",
        "0",
        "--batch",
        str(plan.batch),
        "--max-waiting",
        "256",
        "--timeout",
        "3600",
    ]
    command = [sys.executable, "-m", "sharedllm", "serve", *plan.memories, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line.strip())
                if found := re.search(r"A page to ask in: (http://\S+)/\.", line):
                    yield Served(found[1], lambda: processor_seconds(process.pid))
                    return
            raise UserError(
                f"the server did not start: {lines[-1].removeprefix('error: ') if lines else 'it says nothing'}"
            )
        finally:
            process.terminate()


def processor_seconds(process: int) -> float | None:
    """Seconds of processor time that a process has used; None where the system does not say so."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
