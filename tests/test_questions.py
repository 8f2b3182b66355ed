"""Questions: every answer follows from the text, by a second way of working it out."""

import json
import random
import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from sharedllm import bundled_model
from sharedllm.data.questions import TASKS, Quiz, get_task, hide, is_right, render, sentence_borders
from sharedllm.data.questions.needle import PHRASINGS
from sharedllm.data.synthetic import make_needles, needle_keys

SPLITS = ("train", "validation", "test")
WORDS = "river stone walked slowly under the tall grey house where nobody had lived since winter came".split()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model())


@pytest.fixture(scope="module")
def text():
    rng = random.Random(0)
    return " ".join(" ".join(rng.choices(WORDS, k=rng.randint(8, 20))).capitalize() + "." for _ in range(80))


def answer_from(name: str, facts: tuple[str, ...], text: str, question: str) -> str:
    """The answer by reading facts or text, without what the task remembered."""
    if name in ("needle", "many_needles"):
        for fact, asked, _ in PHRASINGS:
            key = re.fullmatch(re.escape(asked).replace(r"\{key\}", "(.+)"), question)
            if key:
                pattern = re.escape(fact.format(key=key[1], value="@")).replace("@", r"(\w+)")
                return next(m[1] for f in facts if (m := re.fullmatch(pattern, f)))
    if name == "multi_value":
        return ", ".join(re.search(r"is (\d+)\.", f)[1] for f in facts)
    if name == "multi_query":
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
@pytest.mark.parametrize("name", list(TASKS))
def test_answers_follow_from_the_text(name, split, text):
    for seed in range(40):
        quiz = get_task(name).make(random.Random(seed), text, split)
        assert quiz == get_task(name).make(random.Random(seed), text, split)
        assert quiz.answer == answer_from(name, quiz.facts, text, quiz.question), quiz
        assert is_right(quiz, quiz.answer)
        assert is_right(quiz, f"{quiz.lead}{quiz.answer}.\nQuestion: what else?")


def test_splits_share_no_keys_and_keep_a_phrasing():
    seen = {split: set() for split in SPLITS}
    phrasings = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in range(300):
            quiz = get_task("needle").make(random.Random(seed), "", split)
            seen[split].add(next(key for key in needle_keys(split) if key in quiz.question))
            phrasings[split].add(
                next(i for i, p in enumerate(PHRASINGS) if quiz.question.startswith(p[1].split("{")[0]))
            )
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert phrasings["train"] == set(range(len(PHRASINGS) - 1))
    assert phrasings["test"] == set(range(len(PHRASINGS)))


def test_first_phrasing_is_that_of_the_plain_needle():
    (needle,) = make_needles(random.Random(0), 1)
    fact, question, lead = (part.format(key=needle.key, value=needle.answer) for part in PHRASINGS[0])
    assert fact == needle.statement
    assert render(Quiz((), question, needle.answer, lead))[0] == needle.question


@pytest.mark.parametrize("borders", [True, False])
def test_hidden_facts_keep_their_order_and_the_length(tokenizer, text, borders):
    filler = np.array(tokenizer.encode(text))
    ends = sentence_borders(tokenizer, filler)
    assert {tokenizer.decode(filler[:e]).rstrip()[-1] for e in ends} == {"."}
    for seed in range(20):
        rng = random.Random(seed)
        facts = get_task("many_needles").make(rng, text, "train").facts
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
    assert render(quiz) == ("\nQuestion: Which code?\nAnswer: The code is ", "42.\n")
    with pytest.raises(ValueError, match="no chat template"):
        render(quiz, tokenizer, chat=True)
    chatty = AutoTokenizer.from_pretrained(bundled_model())
    chatty.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [assistant] "
    assert render(quiz, chatty, chat=True) == ("[user] Which code? [assistant] ", "The code is 42.<|eos|>")


def test_texts_and_names_that_give_no_question():
    with pytest.raises(ValueError, match="there is no task 'riddle'"):
        get_task("riddle")
    for name in ("follows", "quotation"):
        with pytest.raises(ValueError, match="the text has no"):
            get_task(name).make(random.Random(0), "Too short.", "train")


def test_command_writes_samples_that_hold_their_answers(run, text, tmp_path):
    file, out = tmp_path / "text.txt", tmp_path / "out.jsonl"
    file.write_text(text * 3)
    arguments = ["questions", file, "-o", out, "--tokens", 600, "--count", 24]
    code, printed, err = run(*arguments, "--json")
    assert code == 0, err
    assert json.loads(printed)["samples"] == 24
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["task"] for r in records} == set(TASKS)
    for record in records:
        if record["task"] in ("needle", "many_needles"):
            assert record["answer"] in record["context"]
    first = out.read_bytes()
    assert run(*arguments)[0] == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev"], "--split 'dev' is none of"),
        (["--task", "riddle"], "there is no task 'riddle'"),
        (["--tokens", "99999"], "no file has 99999 tokens"),
        (["--tokenizer", "/nowhere"], "does not exist or is no folder"),
    ],
)
def test_command_refuses(run, text, tmp_path, arguments, message):
    file = tmp_path / "text.txt"
    file.write_text(text)
    code, _, err = run("questions", file, "-o", tmp_path / "out.jsonl", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "out.jsonl").exists()
