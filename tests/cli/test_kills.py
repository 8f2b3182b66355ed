"""SIGKILL at any moment of `read -o`, `read --append`, `read --replace` and `memory merge`.

Documents that were committed stay, a new one is whole or unfinished, and the same command, run again, gives what it would
have given. Every other kill is just before a random operation on a file, the others are at a random moment."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fuzzing import counts, run_cases
from killing import in_a_child, operations

from sharedllm import open_memory
from sharedllm.store import writer

OLD = {"one.txt": "The harbour master counted crates of copper. ", "two.txt": "Anna keeps the mill by the river. " * 4}
NEW = "The code of the silver falcon is 48213. A lantern burned low in the quiet harbour. " * 4


def documents(folder: Path) -> dict[str, tuple[bool, list[int]]]:
    """Whether each is finished, and its tokens; checks that nothing is damaged."""
    store = open_memory(folder)
    assert not store.damaged
    if not store.documents:
        return {}
    ids, found, slot = store.load().token_ids[0].tolist(), {}, 0
    for document in store.documents:
        found[document.name] = (document.finished, ids[slot : slot + document.tokens])
        slot += sum(-(-block.tokens // 16) * 16 for block in document.blocks)
    return found


@counts(few=2, full=100)
def test_kills(tmp_path, small_folder, run, monkeypatch, count):
    monkeypatch.setattr(writer, "BLOCK_TOKENS", 32)
    texts, model = [], ["--keep-all", "--model", str(small_folder)]
    for name, text in (OLD | {"new.txt": NEW}).items():
        (tmp_path / name).write_text(text)
        texts.append(str(tmp_path / name))
    *old, new = texts
    start, other = tmp_path / "start.memory", tmp_path / "other.memory"
    assert run("read", *old, "-o", start, *model)[0] == 0
    assert run("read", new, "-o", other, *model)[0] == 0
    before, alone = documents(start), documents(other)
    after = before | alone
    folder = tmp_path / "case" / "a.memory"

    commands: dict[str, tuple[bool, Callable[[], list[str]], dict]] = {
        # Whether the store is there before; the command; what it gives.
        "read": (False, lambda: ["read", *texts, "-o", str(folder), *model], after),
        "append": (True, lambda: ["read", new, "-o", str(folder), "--append", *model], after),
        "replace": (True, lambda: ["read", new, "-o", str(folder), "--replace", *model], alone),
        "merge": (False, lambda: ["memory", "merge", str(start), str(other), "-o", str(folder)], after),
    }
    # How long each took, undisturbed.
    seconds: dict[str, float] = {}
    # How many operations on files each does.
    most: dict[str, int] = {}
    tried = 0
    killed = dict.fromkeys(commands, 0)

    def fresh(there: bool) -> None:
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        if there:
            shutil.copytree(start, folder)

    def case(rng: random.Random, did: list[str]) -> None:
        nonlocal tried
        name = rng.choice(sorted(commands))
        there, command, wanted = commands[name]
        fresh(there)
        tried += 1
        if tried % 2:
            if name not in most:
                most[name] = operations(command(), folder)
                fresh(there)
            moment = {"operation": rng.randrange(most[name])}
        else:
            moment = {"seconds": rng.uniform(0, seconds.get(name, 0.2))}
        did += [name, str(moment)]
        killed[name] += in_a_child(command(), folder, **moment) == -signal.SIGKILL
        if there or (folder / "manifest.json").exists():
            found = documents(folder)
            for document, (finished, ids) in found.items():
                whole = after[document][1]
                assert ids == whole if finished else ids == whole[: len(ids)]
            if name == "append":
                assert {d: found[d] for d in before} == before
            if name == "replace":
                assert found in (before, alone)
            if name == "merge":
                assert found in ({}, after)
        assert documents(start) == before and documents(other) == alone
        done = name == "merge" and (folder / "manifest.json").exists() and documents(folder) == after
        begun = time.perf_counter()
        # A memory that is merged already is not written over.
        assert in_a_child(command(), folder) == (2 if done else 0), "the same command again"
        seconds[name] = time.perf_counter() - begun
        assert documents(folder) == wanted
        assert sorted(p.name for p in folder.iterdir()) == ["blocks", "lock", "manifest.json"]
        named = {f"{b.file}.memory" for d in open_memory(folder).documents for b in d.blocks}
        assert {p.name for p in (folder / "blocks").iterdir()} == named

    run_cases("kills", count, case)
    # A command may be done before a moment in time, never before one of its own operations.
    assert sum(killed.values()) >= (count + 1) // 2, killed
