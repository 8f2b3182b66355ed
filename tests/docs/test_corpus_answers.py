"""`docs/corpus/answers.py` from its files to its results, and that it goes on where it was stopped. Its table is tested in `test_pages`."""

import json
import sys

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from test_pages import tables_of

NAMES = "ash birch cedar elder fir hazel".split()
RECORDS = [
    {
        "id": f"nq-{number}",
        "question": f"how many leaves has the {name}",
        "answers": [f"{number} leaves"],
        "title": name.title(),
        "passage": f"Of all trees the {name} has {number} leaves, and no more.",
    }
    for number, name in enumerate(NAMES)
]


@pytest.fixture
def script(tmp_path, monkeypatch):
    answers = tables_of("docs/corpus/answers.py")
    monkeypatch.setattr(answers, "RESULTS", tmp_path / "figures.json")
    monkeypatch.setattr(answers, "FILE", 2)
    monkeypatch.setattr(answers, "SHARD", 100)
    answers.RESULTS.write_text('{"speed": 1}')
    yield answers
    torch.set_grad_enabled(True)


@pytest.mark.slow
def test_from_passages_to_figures(script, tmp_path, monkeypatch):
    source, model, base = tmp_path / "nq.jsonl", tmp_path / "model", tmp_path / "base"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    plain = tiny_base("llama", vocab_size=256, max_position_embeddings=1024)
    shared = tiny_shared("llama", base=plain, window=1024, injection="joint", encoding="chunk")
    for folder, made in ((base, plain), (model, shared)):
        made.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    rest = ["--documents", "4", "6", "--questions", "2", "--budget", "60"]

    def figures(*more: str) -> dict:
        arguments = ["answers.py", str(source), str(model), str(base), str(tmp_path / "work"), *rest, *more]
        monkeypatch.setattr(sys, "argv", arguments)
        script.main()
        said = json.loads(script.RESULTS.read_text())
        assert said["speed"] == 1, "what others measured stays"
        return said["answers"]

    first = figures("--answered", "4")
    assert [one["documents"] for one in first["reading"]] == [4, 6]
    assert first["reading"][0]["tokens"] > 1.5 * first["reading"][1]["tokens"], "only new passages are read"
    assert [one["documents"] for one in first["records"]] == [4, 4, 6, 6]
    for one in first["records"]:
        assert int(one["id"][3:]) % 2, "of odd ids"
        assert one["ranks"]["words"] == one["ranks"]["bm25"] == 0, "only its passage names the tree"
        assert set(one.get("hit", {})) == ({"corpus", "same", "bm25"} if one["documents"] == 4 else set())
    whole = figures()
    assert whole["reading"] == first["reading"] and whole["records"][:2] == first["records"][:2]
    assert all("hit" in one for one in whole["records"])


def test_the_questions_passages_are_in_the_smallest_corpus(script, tmp_path):
    source = tmp_path / "nq.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    records, asked = script.records_of(source, 3)
    assert records[:3] == asked and {one["id"] for one in asked} == {"nq-1", "nq-3", "nq-5"}
    assert sorted(one["id"] for one in records) == [one["id"] for one in RECORDS]
    few, all_of_them = (script.files(records[:count], tmp_path / str(count)) for count in (4, 6))
    assert [file.read_bytes() for file in few] == [file.read_bytes() for file in all_of_them[:2]], "it begins alike"
    assert script.sentence("who sang") == "Who sang?" == script.sentence("who sang?")
