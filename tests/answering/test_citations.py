"""The texts of sources for readers: whole words, with a mark where a line goes on."""

import itertools
import random

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.answering import citations
from sharedllm.answering.citations import Citation, around, describe, excerpt
from sharedllm.cli.answers import show_sources

LINES = "The lanterns burned low.\nThe code of the falcon is 48,213.5 today; nobody wrote it down.\nThe end of it."


@pytest.fixture(scope="module")
def cited():
    """Describes bytes start … end − 1 of a text, each of which is a token."""
    model = tiny_shared(
        "llama",
        base=tiny_base("llama", vocab_size=256, num_hidden_layers=1),
        lower_layers=1,
        window=64,
        encoding="chunk",
    )
    tokenizer = byte_tokenizer()

    def call(text: str, start: int, end: int) -> dict:
        memory = model.read(torch.tensor([tokenizer.encode(text)]), keep_all=True, sources=["a.txt"])
        citation = Citation("a.txt", start, end, 1.0, 0)
        found = describe(tokenizer, memory, citation)
        assert (found["text"], *found["characters"]) == excerpt(tokenizer, memory, citation)
        assert text[slice(*found["characters"])] == found["text"]
        return found

    return call


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        ("nterns burned lo", "…lanterns burned low."),
        ("he lanterns burned low.", "The lanterns burned low."),
        ("con is 48", "…falcon is 48,213.5…"),
        (" is ", "…is…"),
        ("of the", "…of the…"),
        ("code of the falcon is 48,213.5 today; nobody wrote it down.\n", "…code of the falcon is 48,213.5 today; nobody wrote it down."),
        ("wn.\nThe e", "…down.\nThe end…"),
        ("of i", "…of it."),
        ("\nThe code o", "The code of…"),
        (LINES, LINES),
    ],
)  # fmt: skip
def test_a_source_begins_and_ends_with_whole_words(cited, tokens, shown):
    start = LINES.index(tokens)
    found = cited(LINES, start, start + len(tokens))
    assert (found["excerpt"], found["text"]) == (shown, tokens) and found["tokens"] == [start, start + len(tokens)]


@pytest.mark.parametrize("text", ["吾輩は猫である名前はまだ無いどこで生れたか" * 12, "x" * 400, "a-" * 200])
def test_what_has_no_words_is_left_as_it_was_cut(cited, text):
    size = len(text.encode())
    for start, end in ((150, 180), (201, 222), (size - 240, size - 180)):
        found = cited(text, start, end)
        assert found["excerpt"] == f"…{found['text']}…"


@pytest.mark.parametrize(
    "characters",
    [["ที่", "น้ำ", "กุ้", "ง", "เ"], ["👨‍👩‍👧", "👍🏽", "❤️", "🇩🇪"], ["e\u0301", "a\u0308\u0304", "x"]],
    ids=["Thai", "emoji", "accents"],
)
def test_no_visible_character_is_cut(cited, characters):
    rng = random.Random(0)
    parts = [rng.choice(characters) for _ in range(400)]
    text, borders = "".join(parts), {0, *itertools.accumulate(map(len, parts))}
    size = len(text.encode())
    for _ in range(40):
        start = rng.randrange(300, size - 300)
        found = cited(text, start, start + 60)
        shown = found["excerpt"].strip("…")
        assert found["text"] in shown and len(shown) < len(found["text"]) + 10
        first = found["characters"][0] - shown.index(found["text"])
        assert text[first:].startswith(shown) and {first, first + len(shown)} <= borders


def test_any_part_of_a_text_is_shown_in_words_of_it(cited):
    rng, words = random.Random(0), ["naïve", "48,213", "größer", "–", "owl's", "世界", "\n", "(a)", "end."]
    text = " ".join(rng.choice(words) for _ in range(60))
    size = len(text.encode())
    for _ in range(100):
        start = rng.randrange(size)
        found = cited(text, start, rng.randrange(start, size) + 1)
        assert set(found["excerpt"].strip("…").split()) <= set(words) and found["text"].strip() in found["excerpt"]


def test_the_terminal_shows_an_ellipsis(cited, capsys):
    show_sources([cited(LINES, LINES.index("lcon"), LINES.index("213"))], "")
    assert capsys.readouterr().err == "a.txt, characters 43–54: “…falcon is 48,213.5…”\n"


def test_a_word_that_ends_with_a_line_is_not_taken_for_the_beginning_of_the_next():
    assert citations._WORD_BEFORE.search("the\n")[0] == "" and citations._WORD_BEFORE.search("the syn")[0] == "syn"


@pytest.mark.parametrize(
    ("text", "about", "shown"),
    [
        ("a few words", "words", "a few words"),
        ("many " * 20 + "red falcon " + "more " * 20, "Which falcon?", "…many many red falcon more more more more…"),
        ("one falcon " + "many " * 20 + "red falcon", "red falcon", "…many many many many many many red falcon"),
        ("red " + "many " * 20, "red", "red many many many many many many many…"),
        ("many " * 20, "falcon", "many many many many many many many many…"),
        (
            "red " * 9 + "many " * 20 + "a red falcon and more",
            "red falcon",
            "…many many many a red falcon and more",
        ),
        ("字" * 100, "鸟", "字" * 40 + "…"),
        ("x" * 100 + " red", "red", "…" + "x" * 20 + " red"),
    ],
)
def test_of_a_long_text_the_part_that_says_most_is_shown(text, about, shown):
    assert around(text.strip(), about, 40) == shown
