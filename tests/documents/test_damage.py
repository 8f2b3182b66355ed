"""Whatever is in a file, it is read, or refused in one line that names it."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_documents import docx, epub, pdf
from made_office import frame, odf, page, pptx, row, shape, xlsx

from sharedllm.documents import open_document
from sharedllm.documents.extract import BadKind
from sharedllm.utils.errors import UserError

FIELDS = "role content messages mapping parent current_node message author parts text title timestamp children cells source".split()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(FIELDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


def check(path) -> None:
    try:
        opened = open_document(str(path))
    except UserError as error:
        if isinstance(error, BadKind):  # an error of ours
            raise
        said = str(error)
    else:
        said = ""
    if said:
        assert str(path) in said and "\n" not in said
        return
    text, places = opened.text(), opened.origin.places
    assert text.strip() and text.encode()
    assert [begin for begin, _ in places] == sorted({begin for begin, _ in places})
    assert all(begin < len(text) and place for begin, place in places)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ipynb"])
@given(value=VALUES)
@settings(max_examples=30)
def test_any_json(tmp_path_factory, name, value):
    path = tmp_path_factory.getbasetemp() / name
    path.write_text(json.dumps(value) + "\n")
    check(path)


@given(markup=st.lists(st.sampled_from("<p> </p> <td> <table> </table> <li> <ul> </ul> <main> </main> <h1> </h1> <pre> </pre> <nav> </nav> <br> <!-- --> <title> </title> &amp; text <".split()), max_size=14))  # fmt: skip
@settings(max_examples=80)
def test_any_markup(tmp_path_factory, markup):
    path = tmp_path_factory.getbasetemp() / "a.html"
    path.write_text("".join(markup))
    check(path)


@given(table=st.text(alphabet='ab1,;|\t"\n\r ', max_size=40))
@settings(max_examples=80)
def test_any_table(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "a.csv"
    path.write_text(table, newline="")
    check(path)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["pdf", "docx", "epub", "pptx", "xlsx", "odt", "odp", "ods"])
def test_changed_bytes(tmp_path, kind, seed):
    path = tmp_path / f"a.{kind}"
    if kind == "pdf":
        pdf(path, ["One page.", "Another page."], title="A title")
    elif kind == "docx":
        docx(path, [("Heading1", "One"), ("table", "a|b")], title="A title", footnote="note")
    elif kind == "pptx":
        pptx(path, [shape("One", kind="title") + shape("Two")], notes={1: shape("Note", kind="body")}, title="A title")
    elif kind == "xlsx":
        xlsx(path, {"One": row(1, "a", "b") + row(2, 1, (0.5, 1))}, formats=("0%",), title="A title")
    elif kind == "odt":
        odf(
            path,
            "text",
            "<text:h>One</text:h><text:list><text:list-item><text:p>a</text:p></text:list-item></text:list>",
        )
    elif kind == "odp":
        odf(path, "presentation", page(frame("<text:p>One</text:p>", "title")), title="A title")
    elif kind == "ods":
        rows = '<table:table-row><table:table-cell office:value-type="float" office:value="1"/></table:table-row>'
        odf(path, "spreadsheet", f'<table:table table:name="One">{rows}</table:table>', title="A title")
    else:
        epub(path, {"One": "<p>text</p>", "Two": "<p>more</p>"}, title="A title")
    raw, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(rng.choice([1, 5, 30])):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    path.write_bytes(raw[: rng.choice([len(raw), rng.randrange(len(raw))])])
    check(path)
