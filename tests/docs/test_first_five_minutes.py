"""The commands of a new user's first five minutes work, and give what the page promises."""

import json
import re
import shlex
from pathlib import Path

from made_documents import pdf

from sharedllm.store import MemoryStore

PAGE = Path(__file__).parents[2] / "docs" / "first-five-minutes.md"


def test_the_first_five_minutes(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        line
        for name, block in re.findall(
            r"(?:<!-- block: ([\w-]+) -->\n)?^```sh\n(.*?)^```$",
            PAGE.read_text(encoding="utf-8"),
            re.DOTALL | re.MULTILINE,
        )
        for line in block.splitlines()
        if name != "install"  # as `pip` did it for these tests
    ]
    said = []
    for line in lines:
        words = shlex.split(line)
        if words[0] == "mkdir":
            Path(words[1]).mkdir()
            filler = "The lanterns burned low in the harbour, and nobody came ashore.\n" * 8
            page = f"{filler}The secret code of the silver falcon is 48213.\n{filler}"
            pdf(tmp_path / "papers/report.pdf", [filler, page, filler])
        elif words[0] == "echo":
            _, text, how, file = words
            with Path(file).open({">": "w", ">>": "a"}[how]) as opened:
                opened.write(text + "\n")
        elif words[0] == "rm":
            Path(words[1]).unlink()
        else:
            assert words[0] == "sharedllm", line
            code, out, err = run(*words[1:])
            assert code == 0, f"{line}\n{err}"
            said.append((words[1], out, err))
    asked = [(out, err) for command, out, err in said if command == "ask"]
    assert [out.rstrip(".\n") for out, _ in (asked[0], asked[1], asked[3])] == ["31604", "48213", "77120"]
    places = 'papers/notes.md, lines 1–2, section "Birds": ', "papers/report.pdf, page 2: ", "papers/new.txt, line 1: "
    assert all(place in err for place, (_, err) in zip(places, (asked[0], asked[1], asked[3]), strict=True))
    best = json.loads(asked[2][0])["sources"][0]
    assert (best["document"], best["place"]) == ("papers/report.pdf", "page 2")
    synced = [err for command, _, err in said if command == "read"][1]
    assert "3 documents unchanged" in synced and "dropped 1 document: papers/food.csv" in synced
    assert [document.name for document in MemoryStore.open("papers.memory").documents] == [
        f"papers/{name}" for name in ("chat.json", "harbour.html", "notes.md", "report.pdf", "new.txt")
    ]
    assert Path("answer.html").stat().st_size > 10_000
