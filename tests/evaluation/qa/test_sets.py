"""Question sets: every text contains the evidence of its questions, at the stated places; halves are disjoint; metrics
by example."""

import functools
import json
from itertools import islice, pairwise

import pytest
from helpers import byte_tokenizer
from qa_files import write_sets

from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.metrics import scores
from sharedllm.evaluation.qa.pieces import cut, golden, joined, within
from sharedllm.evaluation.qa.run import Plan
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.evaluation.qa.sets.quoting import QUOTATION, quote
from sharedllm.evaluation.qa.sets.reworded import FACTS
from sharedllm.scoring.words import terms_of, words_of
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

ALONE = ("narrativeqa", "qmsum", "squality")
RECORDS = ("kv75", "kv140", "kv75-line", "kv140-line")
LENGTHS = dict.fromkeys(ALONE, 0) | dict.fromkeys(RECORDS, 1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "qa")


@pytest.fixture(scope="module")
def meter():
    """Many sets are filled with the same texts, whose tokens are counted once here."""
    meter = Meter(byte_tokenizer())
    meter.tokens = functools.cache(meter.tokens)
    return meter


def some(name, folder, meter, count=3, **options):
    length = {"length": LENGTHS.get(name, 6000)} | options
    return list(islice(SETS[name].texts(TextSpec(folder, **length), meter), count))


@pytest.mark.parametrize("name", SETS)
def test_a_text_holds_its_documents_and_evidence(folder, meter, name):
    texts = some(name, folder, meter)
    assert texts and all(text.questions for text in texts)
    for text in texts:
        assert text.tokens == len(tokenize(meter.tokenizer, text.text)[0]) <= (6000 if name not in ALONE else 10**6)
        assert [d[1] for d in text.documents] == sorted(d[1] for d in text.documents)
        assert all(0 <= a <= b <= len(text.text) for a, b in text.parts)
        for question in text.questions:
            shown = " ".join(text.text[a:b] for a, b in question.evidence)
            if name in (
                "nq",
                "hotpotqa",
                *RECORDS,
                "keys-4",
                "keys-16",
                "keys-64",
                "values",
                "variables",
                "reworded",
            ):
                assert all(answer in shown for answer in question.answers), question
            if name == "fairytaleqa":
                assert f"tale{question.group.removeprefix('tale-')}" in shown
            if name == "codelong":
                assert shown == "def far_away(x):" or "far_away" in shown
    ids = [question.id for text in texts for question in text.questions]
    assert len(ids) == len(set(ids))
    again = some(name, folder, meter)
    assert again == texts, "the same seed gives the same texts"


def test_the_halves_share_no_question(folder, meter):
    for name in set(SETS) - {"codelong"}:
        halves = [
            {(q.question, q.id) for text in some(name, folder, meter, count=1, half=half) for q in text.questions}
            for half in ("even", "odd")
        ]
        assert halves[0] and halves[1] and not halves[0] & halves[1], name
    whole = some("nq", folder, meter, count=None, half="all", per_text=7)
    assert len({q.id for text in whole for q in text.questions}) == 40
    assert max(len(text.questions) for text in whole) <= 7


def test_reworded_questions_share_no_word_with_their_fact():
    for fact, question, answer in FACTS:
        assert not set(terms_of(words_of(fact))) & set(terms_of(words_of(question))), (fact, question)
        assert answer.lower() in fact.lower()


def test_other_texts_ask_for_the_same_facts_as_one_group(folder, meter):
    first, second = some("reworded", folder, meter, count=2)
    assert first.text != second.text and {q.id for q in first.questions}.isdisjoint(q.id for q in second.questions)
    assert {q.group for q in first.questions} == {q.group for q in second.questions} == {q for _, q, _ in FACTS[1::2]}


@pytest.mark.parametrize("name", ["nq", "keys-4", "fairytaleqa"])
def test_quotations_stand_away_from_the_evidence(folder, meter, name):
    (plain,) = some(name, folder, meter, count=1)
    text = quote(plain, 0, meter)
    assert text.tokens == meter.count(text.text) > plain.tokens
    assert len(text.questions) == len(plain.questions) > 1
    for old, new in zip(plain.questions, text.questions, strict=True):
        quotation = QUOTATION.format(question=new.question)
        assert text.text.count(quotation) == 1 + (old.question in plain.text)
        evidence = [text.text[a:b] for a, b in new.evidence]
        assert evidence == [plain.text[a:b] for a, b in old.evidence], "evidence keeps its words"
    # Without the quotations it is the same text, in the same documents and parts.
    bare = text.text
    for question in text.questions:
        bare = bare.replace(QUOTATION.format(question=question.question), "", 1)
    assert bare == plain.text
    for (_, a, b), (_, c, d) in zip(text.documents, plain.documents, strict=True):
        assert text.text[a : a + 5] == plain.text[c : c + 5] and b - a >= d - c
    assert [d[1] for d in text.documents[1:]] == [d[2] + 2 for d in text.documents[:-1]], "documents keep their borders"
    assert quote(plain, 0, meter) == text != quote(plain, 1, meter)


def test_another_seed_gives_another_order(folder, meter):
    assert some("nq", folder, meter, seed=1)[0].text != some("nq", folder, meter)[0].text
    assert some("keys-4", folder, meter, seed=1)[0].text != some("keys-4", folder, meter)[0].text


def test_books_fill_what_passages_do_not(folder, meter):
    (text,) = some("nq", folder, meter, count=1, length=24_000)
    assert 0.75 * 24_000 < text.tokens <= 24_000
    assert {name.split()[0] for name, _, _ in text.documents} == {"Thing", "Book"}


def test_counts_are_those_of_the_lines(folder, meter):
    (text,) = some("clinc", folder, meter, count=1)
    for question in text.questions:
        if question.kind == "count":
            assert len(question.evidence) == int(question.answers[0])
    most = [len(q.evidence) for q in text.questions if q.kind == "count"]
    assert sorted(most)[-1] > sorted(most)[-2], "one is the most frequent"


def test_what_can_not_be_had_is_refused(folder, meter, tmp_path):
    for name, options, message in (
        ("nq", {"length": 10**6}, "all documents together have"),
        ("nq", {"length": 40}, "no document fits into 40"),
        ("keys-4", {"length": 100}, "at least 512"),
        ("keys-64", {"length": 600}, "don't fit into 600"),
        ("clinc", {"length": 100}, "at least 256"),
    ):
        with pytest.raises(ValueError, match=message):
            some(name, folder, meter, **options)
    with pytest.raises(ValueError, match=r"holds no nq-dev\.jsonl\.zst"):
        list(SETS["nq"].texts(TextSpec(tmp_path, 100), meter))
    for name in ("keys-4", "reworded", "values"):
        with pytest.raises(
            ValueError, match=rf"no narrativeqa-dev\.\S+ or \S+, in whose books the set {name} hides its facts: name"
        ):
            next(iter(SETS[name].texts(TextSpec(tmp_path, 1000), meter)))
    # A file whose documents all belong to one half.
    (tmp_path / "nq.jsonl").write_text(
        json.dumps({"id": "nq-2", "question": "who", "answers": ["Anna"], "title": "T", "passage": "Anna came. " * 60})
    )
    with pytest.raises(ValueError, match="nq has no question in its odd half: use half='all'"):
        Plan(SETS["nq"], TextSpec(tmp_path, 100, "odd"), (), (), 5).texts(meter)
    with pytest.raises(ValueError, match=r"'best' is not known: use one of nq"):
        SETS.find("best")


def test_pieces_cover_a_text_and_end_with_sentences(folder, meter):
    (text,) = some("fairytaleqa", folder, meter, count=1)
    pieces = cut(text, meter, 120)
    assert all(0 < piece.tokens <= 120 for piece in pieces)
    for start, end in text.parts:
        inside = [p for p in pieces if start <= p.start < end]
        assert inside[0].start == start and inside[-1].end == end
        assert all(a.end == b.start for a, b in pairwise(inside))
        assert sum(p.tokens for p in inside) == len(text.text[start:end].encode())
    ends = [text.text[p.end - 1] for p in pieces]
    assert ends.count(".") > 0.9 * len(ends)
    for question in text.questions:
        (gold,) = golden(pieces, question.evidence)
        (span,) = question.evidence
        assert gold and all(span[0] <= pieces[i].start and pieces[i].end <= span[1] for i in gold)


def test_records_on_one_line_are_not_cut_apart(folder, meter):
    (text,) = some("kv75-line", folder, meter, count=1)
    pieces = cut(text, meter, 200)
    assert len(pieces) > 3 and all(text.text[: p.end].rstrip().endswith(",") for p in pieces)


def test_a_budget_takes_what_fits_best_first(folder, meter):
    (text,) = some("nq", folder, meter, count=1)
    pieces = cut(text, meter, 200)
    order = [5, 0, 3, 1]
    budget = pieces[5].tokens + pieces[3].tokens
    chosen = within(pieces, order, budget)
    assert chosen[0] == 5 and sum(pieces[i].tokens for i in chosen) <= budget and set(chosen) <= set(order)
    spans = [(pieces[i].start, pieces[i].end) for i in (0, 1, 3)]
    shown = joined(text.text, spans)
    assert shown.count("\n\n") >= 1 and text.text[spans[2][0] : spans[2][1]].strip() in shown
    whole = [(p.start, p.end) for p in pieces if p.end <= text.parts[0][1]]
    assert joined(text.text, whole) == text.text[: text.parts[0][1]]


@pytest.mark.parametrize(
    ("metric", "reply", "answers", "score"),
    [
        ("hit", "It was the U.S. Army.", ["US army"], 1),
        ("hit", "It was the navy.", ["US army"], 0),
        ("hit", "anything", ["the"], 0),
        ("em", "The Beatles!", ["Beatles"], 1),
        ("em", "The Beatles did", ["Beatles"], 0),
        ("f1", "a red fox", ["dog", "red wolf"], 0.5),
        ("rouge_l", "the fox ran home", ["the fox went home"], 0.75),
        ("number", "There are 12 lines.", ["12"], 1),
        ("number", "There are 112 lines.", ["12"], 0),
        ("number", "It is play music", ["play music"], 1),
        ("named", "3, 4", ["3", "4", "5"], 2 / 3),
        ("all_named", "3, 4", ["3", "4", "5"], 0),
        ("line", "```python\n    x = f(1)\ny = 2\n```", ["  x = f(1)"], 1),
        ("line", "x = f(2)", ["x = f(1)"], 0),
        ("edit", "abcd", ["abce"], 0.75),
        ("edit", "", ["abce"], 0),
    ],
)
def test_metrics_by_example(metric, reply, answers, score):
    assert scores(reply, answers, [metric])[metric] == pytest.approx(score)


def test_a_record_without_a_field_is_refused(tmp_path, meter):
    (tmp_path / "nq.jsonl").write_text('{"question": "who"}\n')
    with pytest.raises(ValueError, match=r"a record of nq has no field '[a-z]+', which every one needs"):
        Plan(SETS["nq"], TextSpec(tmp_path, 100, "all"), (), (), 5).texts(meter)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("nq", {"id": "x", "question": "who", "answers": ["a"], "title": "t", "passage": "p"}),
        ("nq", {"id": 5, "question": "who", "answers": ["a"], "title": "t", "passage": "p"}),
        ("hotpotqa", {"id": "x", "question": "who", "answer": "a", "paragraphs": "none"}),
        ("fairytaleqa", {"story": "s", "sections": ["a"], "questions": [
            {"question": "who", "answers": [], "evidence": [7], "explicit": True}]}),
        ("kv75", {"id": "kv75-1", "records": [["a", "b"]], "key": "c", "value": "d"}),
    ],
)  # fmt: skip
def test_a_record_of_another_kind_is_refused(tmp_path, meter, name, record):
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"a record of {name} is not like those of the published set: "):
        Plan(SETS[name], TextSpec(tmp_path, 100, "all"), (), (), 5).texts(meter)


def test_a_document_without_a_question_is_passed_over(tmp_path, meter):
    rows = [{"meeting": f"m{i}", "text": "Words.", "questions": [{"question": "What?", "answers": ["a"], "general": True}] * i}
            for i in range(2)]  # fmt: skip
    (tmp_path / "qmsum.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (text,) = Plan(SETS["qmsum"], TextSpec(tmp_path, 0, "all"), (), (), 5).texts(meter)
    assert text.id == "qmsum-m1"
