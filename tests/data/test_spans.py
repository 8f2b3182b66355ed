"""Samples by number: every token once per epoch, never across documents unless requested, in any order of access."""

import random

import numpy as np
import pytest

from sharedllm.data.questions.needle import crowd
from sharedllm.data.rows import RowMaker, load_instructions
from sharedllm.data.spans import Spans
from sharedllm.data.synthetic import needle_keys


class Store:
    """Documents of consecutive numbers; document d begins at 1000 · d."""

    folder = "store"

    def __init__(self, lengths):
        self.lengths = lengths
        self.names = [f"document {i}" for i in range(len(lengths))]

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        assert start >= 0 and start + length <= self.lengths[document]
        return np.arange(start, start + length) + 1000 * document


STORE = Store([25, 3, 40, 10, 0, 11])


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_epoch_holds_every_document_as_often_as_it_fits(epoch):
    spans = Spans(STORE, 10, seed=1)
    assert spans.per_epoch == 2 + 4 + 1 + 1
    samples = [spans[epoch * spans.per_epoch + i] for i in range(spans.per_epoch)]
    tokens = np.concatenate(samples)
    assert len(set(tokens.tolist())) == len(tokens), "no token occurs twice"
    for sample in samples:
        assert len(sample) == 10 and (np.diff(sample) == 1).all(), "one piece of one document"
    documents = sorted(int(sample[0]) // 1000 for sample in samples)
    assert documents == [0, 0, 2, 2, 2, 2, 3, 5]


def test_order_depends_on_seed_and_epoch_only():
    one, same, other = Spans(STORE, 10, seed=1), Spans(STORE, 10, seed=1), Spans(STORE, 10, seed=2)
    first = [one[i].tolist() for i in range(16)]
    assert [same[i].tolist() for i in reversed(range(16))] == first[::-1]
    assert [other[i].tolist() for i in range(16)] != first
    assert first[:8] != first[8:]


def test_across_documents():
    """One stream with a token between documents: every token occurs, in the order of the documents."""
    stream = [t for d, n in enumerate(STORE.lengths) for t in [*range(1000 * d, 1000 * d + n), -1]]
    spans = Spans(STORE, 16, seed=0, joiner=-1)
    assert spans.per_epoch == len(stream) // 16
    for number in range(3 * spans.per_epoch):
        sample = spans[number].tolist()
        assert any(stream[i : i + 16] == sample for i in range(len(stream) - 15))


def test_short_documents_are_named():
    spans = Spans(STORE, 11, seed=0)
    assert spans.short() == ["document 1", "document 3", "document 4"]
    assert Spans(STORE, 11, seed=0, joiner=-1).short() == []
    with pytest.raises(ValueError, match=r"store: no document holds a sample of 41 tokens.*document 2, has 40"):
        Spans(STORE, 41, seed=0)


def test_rows_keep_their_sizes(base_folder):
    """Context and running text have the requested lengths, and labels are at the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    text = np.asarray(tokenizer.encode("A falcon sang in the harbour. Nobody heard it. " * 40))
    maker = RowMaker(tokenizer)
    for kind in ("text", "alone", "copy", "needle", "variables"):
        row = maker.make(kind, random.Random(0), [text[:1200]], 0, 800, 400)
        assert len(row.context) == (0 if kind == "alone" else 800) and len(row.running) == len(row.labels) == 400
        learnt = row.labels != -100
        assert learnt.any() and (row.labels[learnt] == row.running[learnt]).all()
        assert learnt.all() == (kind in ("text", "alone"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_crowd_is_of_one_form(split):
    for seed in range(50):
        quizzes = crowd(random.Random(seed), 12, split)
        assert len({quiz.question for quiz in quizzes}) == len({quiz.facts for quiz in quizzes}) == 12
        assert all(len(quiz.facts) == 1 and quiz.answer in quiz.facts[0] for quiz in quizzes)
        # Words that all facts share belong to the form.
        words = [set(quiz.facts[0].split()) for quiz in quizzes]
        assert len(set.intersection(*words)) >= 3


def test_a_crowd_hides_more_than_it_asks_for(base_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    text = np.asarray(tokenizer.encode("A falcon sang in the harbour. Nobody heard it. " * 60))
    hidden = 0
    for seed in range(20):
        row = RowMaker(tokenizer, "test").make("crowd", random.Random(seed), [text[:1200]], 0, 800, 400, questions=3)
        learnt = row.labels != -100
        assert len(row.context) == 800 and (row.labels[learnt] == row.running[learnt]).all()
        context, questions = tokenizer.decode(row.context), tokenizer.decode(row.running).split("Question: ")[1:]
        assert 1 <= len(questions) <= 3
        facts = [sentence for sentence in context.split(".") if any(key in sentence for key in needle_keys("test"))]
        for asked in questions:
            (key,) = (key for key in needle_keys("test") if key in asked)
            (fact,) = (fact for fact in facts if key in fact)
            assert fact.split()[-1] in asked.splitlines()[1]
        hidden += len(facts) - len(questions)
    assert hidden > 60


def test_instructions_name_the_broken_line(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(
        '{"context": "a", "question": "b", "answer": "c"}\n\n{"context": "a", "question": 3, "answer": ""}\n'
    )
    with pytest.raises(ValueError, match="line 3: question is missing or not text"):
        load_instructions([str(path)])
    path.write_text("{oops\n")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        load_instructions([str(path)])
    path.write_text('{"context": "a", "question": "b", "answer": "c", "answer": "d"}\n')
    with pytest.raises(ValueError, match=r"line 1: not JSON \('answer' is there twice\)"):
        load_instructions([str(path)])
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no record: name a file with some"):
        load_instructions([str(path)])
    with pytest.raises(ValueError, match="does not exist"):
        load_instructions([str(tmp_path / "none.jsonl")])
