"""Recall by length and budget: facts are at the right places, every policy answers the same questions, tables are correct."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.data.synthetic import needle_keys
from sharedllm.evaluation.corpus import open_documents
from sharedllm.evaluation.recall.ask import Asker
from sharedllm.evaluation.recall.forms import FORMS
from sharedllm.evaluation.recall.report import write_report
from sharedllm.evaluation.recall.results import load
from sharedllm.evaluation.recall.texts import KINDS, make_text
from sharedllm.prompts import NOTHING, own_words, plain
from sharedllm.scoring.words import words_of
from sharedllm.systems.retrieval import Retrieval
from sharedllm.utils.text import tokenize

WORDS = "It was a dark and stormy night. Nobody was on the road, and the inn was far away.\n"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"Book {name}. " + WORDS * 120)
    return folder


@pytest.fixture(scope="module")
def documents(files, tokenizer):
    return open_documents(f"books={files}", tokenizer)


@pytest.mark.parametrize("length", [900, 4000])
def test_facts_stand_where_the_spans_say(documents, tokenizer, length):
    """In a text of one document, and in one of two."""
    text = make_text(documents, tokenizer, length, 3, "seed")
    assert len(text.ids) == length and len(text.questions) == 3 * len(KINDS)
    for question in text.questions:
        assert len(question.spans) == (3 if question.kind == "values" else 1)
        facts = "".join(tokenizer.decode(text.ids[start:end]) for start, end in question.spans)
        values = tokenizer.decode(question.answer).split(", ")
        places = [facts.index(value.strip()) for value in values]
        assert places == sorted(places), "values are asked for in the order of the text"
    spans = sorted(span for question in text.questions for span in question.spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    prompts = {tokenizer.decode(question.prompt) for question in text.questions}
    assert len(prompts) == len(text.questions)
    again = make_text(documents, tokenizer, length, 3, "seed")
    assert np.array_equal(again.ids, text.ids)
    assert not np.array_equal(make_text(documents, tokenizer, length, 3, "other").ids, text.ids)


def test_facts_are_asked_for_in_several_forms(documents, tokenizer):
    """The same facts and answers; only the form of the question differs, or what else the text says."""
    texts = {form: make_text(documents, tokenizer, 1800, 3, "seed", form) for form in FORMS}
    asked = {form: [tokenizer.decode(q.prompt) for q in text.questions] for form, text in texts.items()}
    for form, text in texts.items():
        whole = tokenizer.decode(text.ids)
        for first, other in zip(texts["lead"].questions, text.questions, strict=True):
            values = tokenizer.decode(other.answer).strip()
            assert other.kind == first.kind and values == tokenizer.decode(first.answer).strip()
            facts = "".join(tokenizer.decode(text.ids[start:end]) for start, end in other.spans)
            assert all(value in facts for value in values.split(", "))
            assert other.free == (form != "lead") and other.room == len(other.answer) + 24 * other.free
        quoted = [question.split("Question: ")[1].split("\n")[0] in whole for question in asked[form]]
        assert quoted == [form == "quoted"] * 9
    for lead, plain_, reworded, quoted in zip(*asked.values(), strict=True):
        assert plain_ == quoted and lead.startswith(plain_.rstrip()) and len(lead) > len(plain_)
        assert reworded.split("\n")[-1] == plain_.split("\n")[-1] and reworded != plain_
    for question in texts["reworded"].questions:
        (start, end), *_ = question.spans
        fact, said = (
            set(words_of(tokenizer.decode(ids))) for ids in (texts["reworded"].ids[start:end], question.prompt)
        )
        key = next(key for key in needle_keys("test") if key in tokenizer.decode(question.prompt))
        assert fact & said == set(key.split()), "they have nothing but the key in common"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "quoted"])
def test_a_free_answer_has_to_name_the_values(documents, tokenizer, form):
    model = SharedLLMForCausalLM.from_pretrained(bundled_model()).eval()
    asker = Asker(model, None, tokenizer, ["oracle"], [600])
    answers = list(asker.answers(make_text(documents, tokenizer, 1200, 2, "seed", form)))
    right = {
        (a.policy, a.kind): [b.right for b in answers if (b.policy, b.kind) == (a.policy, a.kind)] for a in answers
    }
    assert set(right) == {
        (p, k) for p in ("oracle", "oracle-text") for k in ("passkey", "needle", "values", "values named")
    }
    assert any(right["oracle", "passkey"] + right["oracle-text", "passkey"]), "the simplest one is answered"
    for policy in ("oracle", "oracle-text"):
        every = [float(share == 1) for share in right[policy, "values named"]]
        assert right[policy, "values"] == every


def test_the_form_of_a_question_is_none_of_its_words(documents, tokenizer):
    form = tokenize(tokenizer, plain(NOTHING))
    for question in make_text(documents, tokenizer, 1200, 3, "seed").questions:
        prompt = torch.from_numpy(question.prompt)
        said = tokenizer.decode(prompt[own_words(prompt[None], form)[0]])
        asked, lead = tokenizer.decode(prompt).removeprefix("\nQuestion:").split("?\nAnswer:")
        assert said == asked + lead


@pytest.mark.slow
def test_every_policy_answers_every_question(documents, tokenizer):
    model = SharedLLMForCausalLM.from_pretrained(bundled_model()).eval()
    base = None
    text = make_text(documents, tokenizer, 1200, 1, "seed")
    asker = Asker(model, base, tokenizer, ["hybrid", "oracle", "tree"], [64, 600])
    answers = list(asker.answers(text))
    assert len(answers) == 4 * (2 * 3 + 1)
    named = [a.right for a in answers if a.kind == "values named"]
    assert len(named) == 7 and all(round(3 * share, 6) in (0, 1, 2, 3) for share in named)
    assert all(a.read <= a.budget for a in answers if a.budget is not None)
    assert {a.policy for a in answers if a.budget is None} == {"tree", "hybrid-text", "oracle-text"}
    texts = [a for a in answers if a.policy.endswith("-text")]
    assert all(0 < a.read < model.config.window for a in texts), "text in the window has to fit into it"
    (shown,) = [a for a in texts if (a.policy, a.kind) == ("oracle-text", "passkey")]
    assert shown.right, "the model answers from the text itself"
    (some,) = [a for a in answers if (a.policy, a.budget, a.kind) == ("oracle", 600, "values named")]
    assert some.right >= 1 / 3, "it names a value of the key, though it may name it again"
    (passkey,) = [a for a in answers if (a.policy, a.budget, a.kind) == ("oracle", 600, "passkey")]
    assert passkey.right, "the bundled model answers the simplest question when it reads the fact"


def test_answers_are_grouped_by_the_number_of_their_text(tmp_path):
    (tmp_path / "texts" / "500").mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    for number in range(12):
        answer = {"kind": "passkey", "policy": "focus", "budget": 64, "right": False, "read": number}
        content = {"environment": {}, "length": 500, "answers": [answer]}
        (tmp_path / "texts" / "500" / f"{number}.json").write_text(json.dumps(content))
    cells, _ = load(tmp_path)
    assert cells["passkey", "focus", 64][500].read == list(range(12)), "not 0, 1, 10, 11, 2, …"


def test_recall_and_its_report(run, files, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    options = ["--data", f"books={files}", "-o", folder, "--cases", 1, "--per-text", 1, "--budgets", "128"]
    options += ["--scores", "oracle"]
    searched, best = [], Retrieval.best

    def noted(self, index, question, running):
        searched.append(self.tokenizer.decode(question))
        return best(self, index, question, running)

    monkeypatch.setattr(Retrieval, "best", noted)
    assert run("recall", *options, "--lengths", "500")[0] == 0
    written = {path: path.read_bytes() for path in (folder / "texts").rglob("*.json")}
    assert len(written) == 1
    assert len(searched) == 3 and not any("Question" in words or "Answer" in words for words in searched)
    code, _, err = run("recall", *options, "--lengths", "500")
    assert code == 0 and "500 tokens" not in err, "existing answers are not asked again"
    assert all(path.read_bytes() == content for path, content in written.items())
    cells, _ = load(folder)
    assert {kind for kind, _, _ in cells} == {"passkey", "needle", "values", "values named"}
    assert {len(cell.right) for row in cells.values() for cell in row.values()} == {1}
    text = (folder / "report.md").read_text()
    assert "BM25 into the base's window" in text and "| oracle | 128 |" in text and (folder / "recall.png").is_file()
    assert "| oracle, as text in the window | – |" in text
    # The table is made from the files alone.
    (path,) = [p for p in written if p.name == "0.json"]
    content = json.loads(path.read_text())
    for answer in content["answers"]:
        answer["right"] = answer["policy"] == "oracle"
    path.write_text(json.dumps(content))
    write_report(folder)
    changed = [line for line in (folder / "report.md").read_text().splitlines() if "| 128 |" in line]
    assert len(changed) == 4 and changed != [line for line in text.splitlines() if "| 128 |" in line]
    # One file is enough to make it again.
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "cells.json").write_bytes((folder / "cells.json").read_bytes())
    for path in write_report(kept):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    (kept / "cells.json").write_text("{}")
    with pytest.raises(ValueError, match="can't be read"):
        write_report(kept)
    for extra, message in (
        (["--seed", "1"], "holds another measurement, which differs in seed"),
        (["--asked", "plain"], "holds another measurement, which differs in asked"),
        (["--asked", "nicely"], "--asked 'nicely' is not known: use one of lead, plain, reworded, quoted"),
        (["--scores", "best"], "'best' is not known"),
        (["--budgets", "64,0"], "--budgets 64,0 has one that keeps nothing"),
        (["--lengths", "60"], "don't fit into 60"),
        (["--lengths", "1M"], "all documents together have"),
        (["--lengths", "9x"], "is not a number of tokens"),
    ):
        arguments = [*options, "-o", tmp_path / "new"] if extra[0] == "--lengths" else options
        code, _, err = run("recall", *arguments, *extra)
        assert code == 2 and message in err.replace("\n", " "), err
