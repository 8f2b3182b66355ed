"""Metrics of the official benchmarks against cases computed by hand, and against packages where they are installed."""

import random

import pytest

from sharedllm.evaluation.official.metrics import METRICS
from sharedllm.evaluation.official.rouge import rouge_l, rouge_lsum


def scored(name, prediction, answer, classes=()):
    return METRICS[name](prediction, answer, classes)


def test_word_f1():
    # "the" and the full stop are removed: 3 words against 2, 2 in common: p 2/3, r 1, f 2·2/(3+2).
    assert scored("qa_f1", "The red old house.", "old house") == pytest.approx(0.8)
    assert scored("qa_f1", "", "old house") == 0
    # Of x x y and x y y, one x and one y are common: 2·2/6.
    assert scored("qa_f1", "x x y", "x y y") == pytest.approx(2 / 3)
    # One character is one token; the full stop is punctuation: 2 of 3 and 2 of 2.
    assert scored("character_f1", "在北京。", "北京") == pytest.approx(0.8)


def test_rouge_of_longbench():
    # Common words in order: the, cat, the, mat. As sets {the, cat, mat} of 5 different words each: 0.6.
    assert rouge_l("the cat sat on the mat", "the cat lay by the mat") == pytest.approx(0.6)
    # Order matters: only one of a, b is in a common subsequence; 1 of 2 and 1 of 2.
    assert rouge_l("b a", "a b") == pytest.approx(0.5)
    # Sentences end at full stops: {a b} with {a b} and {c}; the union has 2 of 3 and 2 of 2 words: 2·(2/3)/(5/3).
    assert rouge_l("a b. c", "a b") == pytest.approx(0.8)
    assert rouge_l("", "a b") == 0 and rouge_l(".", "a b") == 0
    # A sentence of a space is the empty word: 1 of 2 and 1 of 1.
    assert rouge_l("a. ", "a") == pytest.approx(2 / 3)
    assert rouge_l("w " * 3000, "w") == pytest.approx(1)


def test_rouge_of_infinitebench():
    # The example of the ROUGE paper: w1 w2 w3 w5 of w1…w5 are found in two sentences of 4 + 5 words: 2·4/(5 + 9).
    assert rouge_lsum("w1 w2 w6 w7\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5") == pytest.approx(8 / 14)
    # "a" occurs once in the prediction, so it counts once: 1 hit of 1 + 2.
    assert rouge_lsum("A!", "a\na") == pytest.approx(2 / 3)
    assert rouge_lsum("", "a") == 0


@pytest.mark.slow  # importing the package takes seconds
def test_rouge_equals_the_package():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeLsum"])
    rng = random.Random(0)
    for _ in range(60):
        texts = ["".join(rng.choice(["a ", "b ", "c ", "d-", "e\n"]) for _ in range(rng.randint(0, 30))) for _ in "12"]
        assert rouge_lsum(texts[0], texts[1]) == pytest.approx(scorer.score(texts[1], texts[0])["rougeLsum"].fmeasure)


def test_classification_keeps_the_quirk_of_the_original():
    classes = ["Art", "Art museum", "Town"]
    assert scored("classification", "It is a Town", "Town", classes) == 1
    assert scored("classification", "Town or Art", "Town", classes) == 0.5
    assert scored("classification", "nothing", "Town", classes) == 0
    # "Art" is part of the right name: it is removed, and one is left.
    assert scored("classification", "Art museum", "Art museum", classes) == 1
    # Removing "Ar" skips "Art", which therefore stays: 1 of 2.
    assert scored("classification", "Art museum", "Art museum", ["Ar", *classes]) == 0.5


def test_counting_retrieval_and_code():
    assert scored("count", "5 or 7", "7") == 0.5 and scored("count", "many", "7") == 0
    assert scored("retrieval", "Paragraph 12", "Paragraph 12") == 1 and scored("retrieval", "1 2", "Paragraph 12") == 0
    assert scored("retrieval_zh", "段落3和段落4", "段落4") == 0.5
    # The comment is skipped. difflib: "abcd" in both, 2·4/(4+5) = 0.889, rounded to whole per cent.
    assert scored("code_sim", "\n# note\nabcd\nrest", "abcde") == 0.89
    # The longest block "b" leaves nothing in order beside it: 2·1/(2+2). Levenshtein's would be the same here.
    assert scored("code_sim", "ab", "ba") == 0.5
    assert scored("choice", "**The correct answer is (C)**.", "C") == 1
    assert scored("choice", "The correct answer is B", "C") == 0 and scored("choice", "C", "C") == 0


def test_scores_of_infinitebench():
    assert scored("first_integer", "key 71432, not 5", "71432") == 1 and scored("first_integer", "none", "7") == 0
    assert scored("word", 'It is "d4".', "d4") == 1 and scored("word", "d44", "d4") == 0
    assert scored("speaker", "Mara: hello", "MARA") == 1
    assert scored("last_integer", "It is `-1`.", -1) == 1 and scored("last_integer", "-1 it is", -1) == 0
    assert scored("number", "about 9 or 8", 9) == 1 and scored("number", "9.5", 9) == 0 and scored("number", "9.5", 9.5)
    assert scored("running_values", "[1, 4, 9, 8]", (1, 4, 8)) == pytest.approx(2 / 3)
    label = ("bees", "C")
    for right in ("C", "C. bees", "bees", "The answer is: C", "the option is bees", "I say C"):
        assert scored("option", right, label) == 1, right
    for wrong in ("", "A", "Bees", "The answer is:", "The answer is: D", "nothing"):
        assert scored("option", wrong, label) == 0, wrong
    for right in ("B.", "B: f2", "The answer is: f2", "correct option is: B"):
        assert scored("bug", right, ("f2", "B")) == 1, right
    for wrong in ("", "B", "f2", "The answer is:", "answer: A"):
        assert scored("bug", wrong, ("f2", "B")) == 0, wrong
    assert scored("all_strings", "One, TWO\x00", ("one", "two", "three")) == pytest.approx(2 / 3)


def test_chinese_words_need_jieba():
    try:
        import jieba  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install jieba"):
            scored("qa_f1_zh", "北京", "北京")
    else:
        assert scored("qa_f1_zh", "北京", "北京") == 1 and scored("rouge_zh", "北京", "北京") > 0.99
