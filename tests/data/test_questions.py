"""Questions: every answer follows from the text, computed in a second way."""

import difflib
import hashlib
import json
import random
import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from sharedllm import bundled_model
from sharedllm.data.questions import MIX, QUESTIONS, needle, varied
from sharedllm.data.questions.base import Quiz, encode, hide, is_right, render, sentence_borders
from sharedllm.data.questions.needle import PHRASINGS
from sharedllm.data.synthetic import make_needles, needle_keys

KEYS = tuple(f"q{a}{b}q" for a in "aeiou" for b in "aeiou")
SPLITS = ("train", "validation", "test")
VARIED = ("needle", "keys-4", "values", "queries")
WORDS = "river stone walked slowly under the tall grey house where nobody had lived since winter came".split()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model())


@pytest.fixture(scope="module")
def text():
    rng = random.Random(0)
    return " ".join(" ".join(rng.choices(WORDS, k=rng.randint(8, 20))).capitalize() + "." for _ in range(80))


def answer_from(name: str, facts: tuple[str, ...], text: str, question: str) -> str:
    """The answer computed from facts or text, without the task's own data; for the plain forms."""
    if name in ("needle", "keys-4"):
        for fact, asked, _ in PHRASINGS:
            key = re.fullmatch(re.escape(asked).replace(r"\{key\}", "(.+)"), question)
            if key:
                pattern = re.escape(fact.format(key=key[1], value="@")).replace("@", r"(\w+)")
                return next(m[1] for f in facts if (m := re.fullmatch(pattern, f)))
    if name == "values":
        return ", ".join(re.search(r"is (\d+)\.", f)[1] for f in facts)
    if name == "queries":
        keys = re.search(r"codes of the (.+)\?", question)[1].split(" and the ")
        values = {m[1]: m[2] for f in facts if (m := re.search(r"code of the (.+) is (\d+)", f))}
        return ", ".join(values[key] for key in keys)
    if name == "variables":
        known = {}
        for fact in facts:
            left, right = re.search(r"VAR (\w+) = (?:VAR )?(\w+)\.", fact).groups()
            known[left] = known.get(right, right)
        return known[re.search(r"VAR (\w+)\?", question)[1]]
    if name == "counting":
        return str(sum(re.search(r"bell of the (.+) ring", question)[1] in fact for fact in facts))
    quoted = re.search(r'"(.+)"', question)[1].removesuffix(" …")
    behind = " ".join(text.split()).split(quoted)
    assert len(behind) == 2
    return " ".join(behind[1].split()[:6])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", MIX)
def test_answers_follow_from_the_text(name, split, text):
    for seed in range(40):
        quiz = QUESTIONS.find(name).make(random.Random(seed), text, split)
        assert quiz == QUESTIONS.find(name).make(random.Random(seed), text, split)
        if split != "train" or name not in VARIED:
            assert quiz.answer == answer_from(name, quiz.facts, text, quiz.question), quiz
        assert is_right(quiz, quiz.answer)
        assert is_right(quiz, f"{quiz.lead}{quiz.answer}.\nQuestion: what else?")


def choose_forms(monkeypatch, plain: bool) -> None:
    """Training questions of only the plain or only the varied forms."""
    monkeypatch.setattr(needle, "_varied", lambda rng, split: split == "train" and not plain)


def test_splits_share_no_keys_and_keep_a_phrasing(monkeypatch):
    choose_forms(monkeypatch, True)
    seen = {split: set() for split in SPLITS}
    phrasings = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in range(300):
            quiz = QUESTIONS.find("needle").make(random.Random(seed), "", split)
            seen[split].add(next(key for key in needle_keys(split) if key in quiz.question))
            phrasings[split].add(
                next(i for i, p in enumerate(PHRASINGS) if quiz.question.startswith(p[1].split("{")[0]))
            )
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert phrasings["train"] == set(range(len(PHRASINGS) - 1))
    assert phrasings["test"] == set(range(len(PHRASINGS)))


def test_what_the_other_splits_ask_stays_what_it_was():
    """Results of evaluations are compared over time: another question for a seed would be another test."""
    for name, digest in {
        "needle": "837f75c78cb32a02",
        "many_needles": "a7dd7844a3ebfc30",
        "multi_value": "9fae1e1b4092d179",
        "multi_query": "71258fb79cc47359",
    }.items():
        quizzes = [
            QUESTIONS.find(name).make(random.Random(seed), "", split) for split in SPLITS[1:] for seed in range(50)
        ]
        assert hashlib.sha256(repr(quizzes).encode()).hexdigest()[:16] == digest
    # Under old names; the current names are the same kinds.
    assert [QUESTIONS[name].name for name in ("many_needles", "multi_value", "multi_query")] == list(VARIED[1:])


@pytest.mark.parametrize("name", VARIED)
def test_training_phrasings_are_many_and_none_is_held_out(name):
    """Fact, question and lead without key and value are a phrasing."""
    held_out = {key for split in SPLITS[1:] for key in needle_keys(split)}
    last = [re.escape(part).replace(r"\{key\}", ".+").replace(r"\{value\}", ".+") for part in PHRASINGS[-1][:2]]
    phrasings, keys = set(), set()
    for seed in range(500):
        quiz = QUESTIONS.find(name).make(random.Random(seed), "", "train")
        shown = [*quiz.facts, quiz.question]
        together = "\n".join(shown)
        assert not any(key in together for key in held_out)
        assert not any(re.fullmatch(pattern, line) for pattern in last for line in shown)
        values = quiz.answer.split(", ")
        assert all(any(value in fact for fact in quiz.facts) for value in values)
        key = longest_common(quiz.facts[[values[0] in fact for fact in quiz.facts].index(True)], quiz.question)
        keys.add(key)
        phrasings.add(
            tuple(line.replace(key, "").replace(values[0], "") for line in (quiz.facts[0], quiz.question, quiz.lead))
        )
    assert len(phrasings) > 150 and len(keys) > 150


def longest_common(a: str, b: str) -> str:
    match = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[match.a : match.a + match.size]


@pytest.mark.parametrize("name", VARIED)
def test_varied_answers_follow_from_the_facts(name, monkeypatch):
    """Each answer is in the fact about the requested key."""
    choose_forms(monkeypatch, False)
    monkeypatch.setattr(varied, "varied_keys", lambda rng, count: rng.sample(KEYS, count))
    for seed in range(300):
        quiz = QUESTIONS.find(name).make(random.Random(seed), "", "train")
        named = [next(key for key in KEYS if key in fact) for fact in quiz.facts]
        asked = sorted((key for key in KEYS if key in quiz.question), key=quiz.question.index)
        if name == "values":
            assert asked == named[:1] and len(set(named)) == 1
            places = [fact.index(value) for fact, value in zip(quiz.facts, quiz.answer.split(", "), strict=True)]
            assert len(set(places)) == 1
        else:
            assert len(set(named)) == len(named)
            for key, value in zip(asked, quiz.answer.split(", "), strict=True):
                assert value in quiz.facts[named.index(key)].replace(key, "")
        assert is_right(quiz, f"{quiz.lead}{quiz.answer}.")


def test_first_phrasing_is_that_of_the_plain_needle():
    (plain,) = make_needles(random.Random(0), 1)
    fact, question, lead = (part.format(key=plain.key, value=plain.answer) for part in PHRASINGS[0])
    assert fact == plain.statement
    assert "".join(render(Quiz((), question, plain.answer, lead))) == f"{plain.question}{plain.answer}.\n"


@pytest.mark.parametrize("borders", [True, False])
def test_hidden_facts_keep_their_order_and_the_length(tokenizer, text, borders):
    filler = np.array(tokenizer.encode(text))
    ends = sentence_borders(tokenizer, filler)
    assert {tokenizer.decode(filler[:e]).rstrip()[-1] for e in ends} == {"."}
    for seed in range(20):
        rng = random.Random(seed)
        facts = QUESTIONS.find("keys-4").make(rng, text, "train").facts
        encoded = [np.array(tokenizer.encode(f)) for f in facts]
        ids = hide(rng, filler, encoded, 300, ends if borders else None)
        assert len(ids) == 300
        shown = tokenizer.decode(ids)
        places = [shown.index(fact) for fact in facts]
        assert places == sorted(places)
        if borders:
            assert all(place == 0 or shown[place - 1] == "." for place in places)
    with pytest.raises(ValueError, match="don't make 20 tokens"):
        hide(random.Random(0), filler, encoded, 20)


@pytest.mark.parametrize(
    ("answer", "given", "right"),
    [
        ("48213", "48213.", True),
        ("48213", " 48213\nQuestion:", True),
        ("48213", "482137", False),
        ("48213", "The 48213", False),
        ("falcon", "Falcon, of course", True),
        ("12, 345", "12 , 345", True),
        ("12, 345", "12, 344", False),
        ("", "anything", False),
        ("don't go there", "Don't  go there!", True),
    ],
)
def test_what_counts_as_right(answer, given, right):
    assert is_right(Quiz((), "?", answer), given) is right


def test_render_with_and_without_a_chat_template(tokenizer):
    quiz = Quiz((), "Which code?", "42", "The code is ")
    assert render(quiz) == ("\nQuestion: Which code?\nAnswer: The code is", " 42.\n")
    assert render(Quiz((), "Which code?", "42")) == ("\nQuestion: Which code?\nAnswer:", " 42.\n")
    with pytest.raises(ValueError, match="no chat template"):
        encode(quiz, tokenizer, chat=True)
    chatty = AutoTokenizer.from_pretrained(bundled_model())
    chatty.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [assistant] "
    parts = [chatty.decode(part) for part in encode(quiz, chatty, chat=True)]
    assert parts == ["[user] Which code? [assistant] ", "The code is 42.<|eos|>"]
    forged = [encode(Quiz((), f"Which{end}?", f"4{end}2"), chatty, chat=True) for end in ("", "<|eos|>")]
    assert [[int((part == chatty.eos_token_id).sum()) for part in parts] for parts in forged] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("name", MIX)
def test_answers_tokenise_as_in_running_text(tokenizer, text, name):
    for seed in range(40):
        parts = render(QUESTIONS.find(name).make(random.Random(seed), text, "train"))
        ids = [tokenizer.encode(part, add_special_tokens=False) for part in parts]
        assert ids[0] + ids[1] == tokenizer.encode("".join(parts), add_special_tokens=False)


def test_texts_and_names_that_give_no_question():
    with pytest.raises(ValueError, match="task 'riddle' is not known"):
        QUESTIONS.find("riddle")
    for name in ("follows", "quotation"):
        with pytest.raises(ValueError, match="the text has no"):
            QUESTIONS.find(name).make(random.Random(0), "Too short.", "train")


def test_command_writes_samples_that_hold_their_answers(run, text, tmp_path):
    file, out = tmp_path / "text.txt", tmp_path / "out.jsonl"
    file.write_text(text * 3)
    arguments = ["questions", file, "-o", out, "--tokens", 600, "--count", 24]
    code, printed, err = run(*arguments, "--json")
    assert code == 0, err
    assert json.loads(printed)["samples"] == 24
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["task"] for r in records} == set(MIX)
    for record in records:
        if record["task"] in ("needle", "keys-4"):
            assert record["answer"] in record["context"]
    first = out.read_bytes()
    assert run(*arguments)[0] == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev"], "--split 'dev' is not known"),
        (["--task", "riddle"], "task 'riddle' is not known"),
        (["--tokens", "99999"], "no file has 99,999 tokens"),
        (["--tokenizer", "/nowhere"], "does not exist or is not a folder"),
    ],
)
def test_command_refuses(run, text, tmp_path, arguments, message):
    file = tmp_path / "text.txt"
    file.write_text(text)
    code, _, err = run("questions", file, "-o", tmp_path / "out.jsonl", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "out.jsonl").exists()
