"""Measures corpora on a Ray cluster of three node processes on this machine: equal results, runs of which a part is killed, time by
workers, and questions to a folder and to an S3 server on loopback.

    python docs/corpus/measure.py books.jsonl.zst -o docs/corpus/figures.json
"""

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from clusters import begin, cluster, kill, report

from sharedllm.corpus.engines import OneProcess
from sharedllm.corpus.run import read_corpus
from sharedllm.corpus.sources import Span, lines_of
from sharedllm.utils.hardware import environment

MODEL, BATCH, SHARD = "tiny", 2048, 4000


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
    import shutil

    arguments = docs, str(folder), MODEL, made.address, 3, "--batch-tokens", BATCH, "--shard-bytes", SHARD
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
        "failed": len(said["failed"]),
        "seconds": round(time.perf_counter() - begun, 1),
        "digest": digest(folder),
        "unfinished": len(list(folder.glob(".*"))),
    }
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--characters", type=int, default=300)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        at = Path(folder)
        docs = cut(options.source, at / "docs", options.documents, options.characters)
        alone = read_corpus([str(docs)], str(at / "one"), MODEL, OneProcess(), batch_tokens=BATCH, shard_bytes=SHARD)
        figures: dict[str, Any] = {
            "environment": environment(),
            "model": MODEL,
            "documents": alone.documents,
            "shards": alone.shards,
            "tokens": alone.corpus_tokens,
            "bytes": alone.nbytes,
            "one_process": {"seconds": round(alone.seconds, 1), "processor_seconds": round(alone.processor_seconds, 1)},
            "digest": digest(at / "one"),
            "workers": [],
            "runs": [],
        }

        def keep() -> None:
            options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

        keep()
        with cluster() as made:
            for workers in (1, 3):
                arguments = docs, str(at / f"w{workers}"), MODEL, made.address, workers, "--batch-tokens", BATCH
                said = report(begin(*arguments, "--shard-bytes", SHARD))
                figures["workers"].append(
                    {
                        "workers": workers,
                        "seconds": round(said["seconds"], 1),
                        "processor_seconds": round(said["processor_seconds"], 1),
                        "equal": digest(at / f"w{workers}") == figures["digest"],
                    }
                )
                keep()
            longest = min(each["seconds"] for each in figures["workers"])
            for number in range(options.runs):
                what = ("worker", "node", "driver")[number % 3]
                # From before the first reader is up to the last shards.
                run = killed(docs, at / "killed", made, what, rng.uniform(0, longest), rng)
                figures["runs"].append(run | {"equal": run.pop("digest") == figures["digest"]})
                print(figures["runs"][-1], file=sys.stderr)
                keep()


if __name__ == "__main__":
    main()
