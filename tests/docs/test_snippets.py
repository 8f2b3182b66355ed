"""The Python and shell blocks of the README and the guide run unchanged, with the bundled model, page by page.

A block that can't run here has a comment `<!-- block: NAME -->` above it, and an entry in `NOT_RUN` with the reason.
"""

import contextlib
import io
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"docs/{name}.md" for name in "install guide documents corpus python serving training".split())]
# The longest pages.
LONG = ("docs/guide.md", "docs/python.md")
NOT_RUN = {
    "documents": "installs; tests/documents and test_first_five_minutes read folders",
    "install": "installs; tests/installation build the wheel",
    "corpus": "installs, and needs a cluster or a bucket; tests/corpus read with both",
    "doctor": "takes some ten seconds; tests/installation run it",
    "make": "sets up an environment; these are the commands that the tests run in",
    "chat": "waits for questions at a terminal; the guide's piped chat runs",
    "serve": "serves until it is stopped; tests/serving start servers",
    "server": "serves until it is stopped; tests/serving send these requests",
    "replicas": "needs a cluster, and serves until it is stopped; tests/serving/test_ray_serve.py starts one",
    "own-checkpoint": "needs a checkpoint of your own; the same call with the bundled base runs",
    "train": "takes minutes, or several devices; tests/training run recipes",
    "measure": "takes minutes, or needs a checkpoint of your own; tests/evaluation and tests/diagnosis run these commands",
}
# The facts that the examples ask about.
BOOK = (
    "The captain of the ship was an old man who seldom spoke. " * 110
    + "The secret code of the silver falcon is 48213. "
    + "In the harbour the lanterns burned low, and nobody came ashore. " * 110
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    name: str | None
    text: str


def blocks(page: str) -> list[Block]:
    pattern = r"^(?:<!-- block: (?P<name>[\w-]+) -->\n)?```(?P<language>python|sh)\n(?P<text>.*?)^```$"
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text[: m.start("text")].count("\n") + 1, m["language"], m["name"], m["text"])
        for m in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    ]


def shell(block: Block, run, monkeypatch) -> None:
    """Run the lines of a block: our commands, possibly after a pipe from `echo`, and an `echo` into a file. Who asks for the
    code is told it."""
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[:1] == ["echo"] and words[-2] == ">":
            Path(words[-1]).write_text(f"{words[1]}\n")
            continue
        if words[0] == "echo":
            bar = words.index("|")
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(" ".join(words[1:bar]).encode())))
            words = words[bar + 1 :]
        assert words[0] == "sharedllm", f"{block.page}:{block.line}: only commands of ours run here: {line}"
        code, out, err = run(*words[1:])
        assert code == 0, f"{block.page}:{block.line}: {line}\n{err}"
        assert out or err, line
        if "secret code" in line:
            assert "48213" in out, f"{block.page}:{block.line}: {line}\n{out}"


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] if p in LONG else []) for p in PAGES])
def test_snippets_run(page, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(BOOK)
    Path("more.txt").write_text("Much later a letter came to the harbour. " * 40)
    space: dict[str, object] = {}
    ran = 0
    for block in blocks(page):
        if block.name in NOT_RUN:
            continue
        assert block.name is None, f"{page}:{block.line}: say in NOT_RUN why {block.name!r} does not run"
        if block.language == "sh":
            shell(block, run, monkeypatch)
        else:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.text, f"{page}:{block.line}", "exec"), space)
            if "# 48213." in block.text:
                assert "48213." in out.getvalue(), f"{page}:{block.line}"
        ran += 1
    assert ran or page == "docs/serving.md"


def test_what_does_not_run_is_there():
    named = {block.name for page in PAGES for block in blocks(page) if block.name}
    assert named == set(NOT_RUN)


def test_commands_that_do_not_run_are_known(run):
    """Every one of our commands and options shown on a page exists."""
    for page in PAGES:
        for block in blocks(page):
            if block.language != "sh" or block.name not in NOT_RUN:
                continue
            for line in block.text.splitlines():
                words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 else []
                if words[:1] == ["sharedllm"]:
                    code, out, _ = run(words[1], "--help")
                    assert code == 0, line
                    for option in (w for w in words[2:] if w.startswith("-")):
                        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", out), f"{page}: {line}: {option}"
