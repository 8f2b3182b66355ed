"""The exact word wins: a name does not match a longer name that begins with it."""

import pytest
import torch
from helpers import byte_tokenizer, coverage, tiny_base, tiny_shared

from sharedllm.answering.ask import choose
from sharedllm.prompts import NOTHING, PromptForm
from sharedllm.scoring.bm25 import BM25Score, in_whole_words
from sharedllm.scoring.focus import FocusScore
from sharedllm.scoring.hybrid import HybridScore
from sharedllm.scoring.words import WordIndex, words_of
from sharedllm.utils.checkpoints import load_tokenizer
from sharedllm.utils.text import tokenize


@pytest.mark.parametrize("kind", [BM25Score, FocusScore])
@pytest.mark.parametrize(
    ("name", "longer"), [("town7", "town7{}"), ("Ann", "Ann{}"), ("file_a", "file_a_{}"), ("x1", "x1{}")]
)
def test_the_exact_word_wins(kind, name, longer):
    tokenizer, filler = load_tokenizer("tiny"), "The sea was calm that day and nobody came. " * 3
    others = [f" {longer.format(i)} lies by the river. {filler}" for i in range(10)]
    text = "".join([*others[:5], f" {name} lies on the hill. {filler}", *others[5:]])
    score = in_whole_words(kind(), tokenizer)
    ids = tokenize(tokenizer, text)[0].int()
    values = score._of(ids, tokenize(tokenizer, f" {name}")[0].tolist())
    exact = len(tokenize(tokenizer, text[: text.index("on the hill")])[0])
    assert values[exact - 1] == values.max()
    for i in range(10):
        other = len(tokenize(tokenizer, text[: text.index(f" {longer.format(i)} lies") + len(longer) + 2])[0])
        assert values[other] < values[exact - 1]


def test_without_a_tokenizer_every_place_counts():
    tokenizer = byte_tokenizer()
    text, asked = (tokenize(tokenizer, t)[0] for t in ("town70 " + "x " * 40, "town7"))
    assert BM25Score()._of(text.int(), asked.tolist())[0] > 0
    ends = in_whole_words(BM25Score(), tokenizer)._asked(asked.tolist())
    assert sorted(len(term.tokens) for term in ends if term.ends) == [1, 2, 5]


def test_the_word_at_the_end_of_a_text_and_before_a_gap_counts():
    tokenizer = byte_tokenizer()
    score = in_whole_words(BM25Score(piece=4), tokenizer)
    asked = tokenize(tokenizer, "b7")[0].tolist()
    for text in ("aaaa aaaa b7", "b7"):
        assert score._of(tokenize(tokenizer, text)[0].int(), asked).max() > 0
    gap = torch.cat([tokenize(tokenizer, "b7")[0].int(), torch.tensor([-1, -1], dtype=torch.int32)])
    assert score._of(gap, asked).max() > 0


def test_hybrids_match_whole_words_too():
    tokenizer = byte_tokenizer()
    members = HybridScore().in_whole_words(tokenizer).members
    assert [getattr(m, "tokenizer", None) is tokenizer for m in members] == [False, True]


@pytest.mark.parametrize("kind", [BM25Score, FocusScore])
@pytest.mark.parametrize("number", [7, 10, 100, 1000])
def test_a_number_is_no_part_of_another(kind, number):
    """Each digit is a token, so a longer number may have all of a shorter one's pairs."""
    tokenizer, numbers = load_tokenizer("tiny"), [7, 17, 10, 110, 101, 100, 1100, 2100, 1000, 1001, *range(300, 330)]
    filler = "The sea was calm that day and nobody came to the house. " * 3
    text = "".join(f" The key of room {n} hangs on a hook. {filler}" for n in numbers)
    score = in_whole_words(kind(), tokenizer)
    asked = tokenize(tokenizer, f" Where does the key of room {number} hang?")[0].tolist()
    values = score._of(tokenize(tokenizer, text)[0].int(), asked)
    at = [len(tokenize(tokenizer, text[: text.index(f"room {n} ") + 4])[0]) for n in numbers]
    best = max(numbers, key=lambda n: values[at[numbers.index(n)]])
    assert best == number


@pytest.mark.parametrize("score", ["bm25", "focus"])
@torch.no_grad()
def test_a_question_reads_the_exact_name(score):
    tokenizer = byte_tokenizer()
    model = tiny_shared(
        "llama", base=tiny_base("llama", vocab_size=256), window=64, injection="joint", encoding="chunk"
    )
    text = (
        "".join(f"town7{i} is red. " * 3 for i in range(5))
        + "town7 is blue. "
        + "".join(f"town7{i} is red. " * 3 for i in range(5, 10))
    )
    memory = model.read(tokenize(tokenizer, text), keep_all=True)
    form = PromptForm.of(tokenizer)
    chosen = choose(model, tokenizer, memory, form.whole("town7"), form.whole(NOTHING), budget=64, score=score)
    assert any("town7 is" in source["text"] for source in chosen.sources)


def test_a_letter_with_a_sign_is_a_word_of_its_own():
    assert words_of("C# and C++, F#; C") == ["c#", "c++", "f#", "c"]
    assert words_of("count++; a+b, issue#12 C#7 i ++ 银鹰# naïve#") == "count b issue 12 c 7 银鹰 naïve".split()
    index = WordIndex(["It is written in C++.", "It is written in C#.", "It is written in C."])
    for place, name in enumerate(["C++", "C#", "C"]):
        scores = index.scores(f"What is {name}?")
        assert scores.argmax() == place and (scores > 0).sum() == 1


def test_nothing_is_said_of_questions_without_words():
    assert WordIndex(["Some text."]).covered("What is it?") is None


def test_short_words_in_their_form_with_s_are_covered():
    index = WordIndex(["The pump runs at 3200 rpm.", "The gate opens at nine.", "The cat sleeps."])
    assert coverage(index, "How fast does the pump run?") > coverage(index, "How fast does the pump sing?") > 0
    assert coverage(index, "Do the cats sleep?") == 1
