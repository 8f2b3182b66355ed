"""Measures how corpora are read on this machine; results go into `figures.json`, beside what is there.

python docs/corpus/measure.py speed books.jsonl.zst    tokens a second by workers, on documents of 4,000 characters
python docs/corpus/measure.py passes books.jsonl.zst   megabytes of text a second that a worker of one compressed file passes over
python docs/corpus/measure.py kills books.jsonl.zst    a Ray cluster of three node processes: equal results, and runs of which a
                                                       part is killed, on documents of 300 characters
"""

import argparse
import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from clusters import begin, cluster, kill, report

from sharedllm.corpus.manifest import read_part
from sharedllm.corpus.objects import Place
from sharedllm.corpus.sources import Span, lines_of
from sharedllm.utils.hardware import environment

RESULTS = Path(__file__).parent / "figures.json"
MODEL, BATCH = "tiny", 2048
# Characters of a document and bytes of a shard.
LONG, SHORT = (4000, 16_000), (300, 4000)


def cut(source: Path, folder: Path, count: int, characters: int) -> Path:
    """Short documents from the texts of a file of records, from random places."""
    rng, made = random.Random(0), 0
    folder.mkdir()
    for line in lines_of(Span("", str(source), "lines")):
        text = json.loads(line)["text"]
        for _ in range(10):
            start = rng.randrange(max(1, len(text) - characters))
            (folder / f"{made:03}.txt").write_text(text[start : start + characters], encoding="utf-8")
            made += 1
            if made == count:
                return folder
    raise SystemExit(f"{source} gives only {made} documents")


def digest(folder: Path) -> str:
    """Of the names and bytes of all objects of a corpus. In folders that begin with a dot is what a killed writer had not finished."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if not name.startswith("."):
            found.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def killed(docs: Path, folder: Path, made: Any, what: str, moment: float, rng: random.Random) -> dict[str, Any]:
    """A run of which a part is killed after `moment` seconds from its first commit; begun again as often as it ends with an error."""
    arguments = docs, str(folder), MODEL, made.address, 3, "--batch-tokens", BATCH, "--shard-bytes", SHORT[1]
    begun, started = time.perf_counter(), 1
    driver = begin(*arguments)
    while driver.poll() is None and not (folder / "parts").is_dir():
        time.sleep(0.02)
    time.sleep(moment)
    there = len(list((folder / "parts").glob("*.json")))
    hit = driver.poll() is None and kill(what, made, driver, rng)
    while True:
        driver.wait()
        if driver.returncode == 0:
            break
        print(driver.stderr.read()[-400:] if driver.stderr else "", file=sys.stderr)
        started += 1
        driver = begin(*arguments)
    said = report(driver)
    found = {
        "killed": what if hit else None,
        "committed_before": there,
        "started": started,
        "documents": said["documents"],
        "failed": len(said["unreadable"]),
        "seconds": round(time.perf_counter() - begun, 1),
        "digest": digest(folder),
        "unfinished": len(list(folder.glob(".*"))),
    }
    shutil.rmtree(folder)
    return found


def rate(folder: Path, begun: float, ended: float) -> dict[str, float]:
    """Where the time of a run went, from the times at which its shards were committed: until the first one, from there to the last
    one, and after it; and the tokens a second of all but the first while they were read."""
    place = Place(folder)
    found = [(path.stat().st_mtime, read_part(place, path.stem)) for path in (folder / "parts").glob("*.json")]
    parts = sorted(found, key=lambda each: each[0])
    (first, _), (last, _) = parts[0], parts[-1]
    tokens = sum(part.tokens for _, part in parts[1:] if part is not None)
    return {
        "start": round(first - begun, 1),
        "reading": round(last - first, 1),
        "end": round(ended - last, 1),
        "tokens_per_second": round(tokens / (last - first), 1),
    }


def read(docs: Path, folder: Path, shard: int, workers: int, address: str = "") -> dict[str, Any]:
    """A run of the command: its figures, and the digest of what it made, which is removed unless it is the first."""
    load, begun = os.getloadavg()[0], time.time()
    said = report(
        begin(docs, str(folder), MODEL, address, workers, "--batch-tokens", BATCH, "--shard-bytes", shard), 1800
    )
    return {
        "workers": workers,
        "seconds": round(said["seconds"], 1),
        "processor_seconds": round(said["processor_seconds"], 1),
        "load_before": round(load, 1),
        **rate(folder, begun, time.time()),
        "documents": said["documents"],
        "shards": said["shards"],
        "tokens": said["tokens"],
        "bytes": said["bytes"],
        "digest": digest(folder),
    }


def keep(name: str, found: dict[str, Any]) -> None:
    figures = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    figures[name] = {"environment": environment(), "model": MODEL, **found}
    RESULTS.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def speed(source: Path, at: Path, documents: int) -> None:
    """One process, and 1, 2 and 3 workers, each on a Ray that the command starts."""
    docs = cut(source, at / "docs", documents, LONG[0])
    runs: list[dict[str, Any]] = []
    for workers in (0, 1, 2, 3):
        run = read(docs, at / "c", LONG[1], workers)
        runs.append(run | {"equal": run["digest"] == (runs or [run])[0]["digest"]})
        print(runs[-1], file=sys.stderr)
        keep("speed", {"characters": LONG[0], "runs": runs})
        shutil.rmtree(at / "c")


def passes(source: Path, at: Path) -> None:
    """How fast the lines of a compressed file are passed over, by its kind: the same text in each."""
    import zstandard

    text, runs = b"\n".join(lines_of(Span("", str(source), "lines"))), []
    kinds = {"zst": zstandard.compress, "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}
    for kind, packed in kinds.items():
        file = at / f"text.jsonl.{kind}"
        file.write_bytes(packed(text))
        begun = time.process_time()
        assert sum(len(line) + 1 for line in lines_of(Span("", str(file), "lines"))) == len(text) + 1
        seconds = time.process_time() - begun
        runs.append({"kind": kind, "bytes": file.stat().st_size, "seconds": round(seconds, 3)})
    keep("passes", {"text_bytes": len(text), "runs": runs})


def kills(source: Path, at: Path, documents: int, count: int) -> None:
    """On one cluster: runs with one and three workers, then with three of which a part is killed at a random moment. Goes on with
    what is in the results already, if that read the same."""
    docs = cut(source, at / "docs", documents, SHORT[0])
    alone = read(docs, at / "one", SHORT[1], 0)
    held = (json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}).get("kills", {})
    goes_on = bool(held) and held["one_process"]["tokens"] == alone["tokens"]
    found: dict[str, Any] = (
        held if goes_on else {"characters": SHORT[0], "one_process": alone, "workers": [], "runs": []}
    )
    begun = len(found["runs"])
    rng = random.Random(begun)
    with cluster() as made:
        # Those with one and three workers are compared with each other, so they are all of one call.
        for workers in (3,) if goes_on else (1, 3):
            run = read(docs, at / f"w{workers}", SHORT[1], workers, made.address)
            if not goes_on:
                found["workers"].append(run | {"equal": run["digest"] == alone["digest"]})
        keep("kills", found)
        # Counted from the first commit; some are after the last one, in the joining of the index.
        longest = run["reading"] + run["end"]
        for number in range(begun, count):
            what = ("worker", "node", "driver")[number % 3]
            run = killed(docs, at / "killed", made, what, rng.uniform(0, longest), rng)
            found["runs"].append(run | {"equal": run.pop("digest") == alone["digest"]})
            print(found["runs"][-1], file=sys.stderr)
            keep("kills", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "passes", "kills"])
    parser.add_argument("source", type=Path)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        if options.what == "speed":
            speed(options.source, Path(folder), options.documents)
        elif options.what == "passes":
            passes(options.source, Path(folder))
        else:
            kills(options.source, Path(folder), options.documents, options.runs)


if __name__ == "__main__":
    main()
