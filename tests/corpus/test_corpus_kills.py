"""SIGKILL at any moment of `read-corpus`: the same command, run again, leaves every byte of the folder as an undisturbed run does."""

import random
import shutil
import signal
import time
from pathlib import Path

from corpora import documents
from fuzzing import counts, run_cases
from killing import in_a_child, operations


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@counts(few=1, full=40)
def test_kills_of_a_corpus(tmp_path, corpus_model, count):
    docs, killed, left = documents(tmp_path / "docs"), [], []
    options = ["--model", corpus_model, "--workers", "0", "--shard-bytes", "300", "--batch-tokens", "256"]

    def command(folder: Path) -> list[str]:
        return ["read-corpus", str(docs), "-o", str(folder), *options]

    begun = time.perf_counter()
    most = operations(command(tmp_path / "whole"), tmp_path / "whole")
    seconds = time.perf_counter() - begun
    whole = every_file(tmp_path / "whole")
    assert len([name for name in whole if name.startswith("parts/")]) == 3
    folder = tmp_path / "c"

    def case(rng: random.Random, did: list[str]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        # A whole run reaches each of its operations; one that goes on may be done before the second moment.
        at_random = {"seconds": rng.uniform(0, seconds)} if rng.random() < 0.6 else {"operation": rng.randrange(most)}
        for moment in ({"operation": rng.randrange(most)}, at_random):
            did.append(str(moment))
            killed.append(in_a_child(command(folder), folder, **moment) == -signal.SIGKILL)
        left.extend(folder.glob(".writing*"))
        assert in_a_child(command(folder), folder) == 0, "the same command again"
        assert every_file(folder) == whole

    run_cases("kills of a corpus", count, case)
    assert sum(killed) >= count
    assert left or count < 20, "some are killed while they put an object"
