"""Every kind of document: its text, title and places; and the files that can't be read, by name and with the fix."""

import json
import sys
import time
import zipfile

import pytest
from made_documents import archive, docx, epub, pdf, placed

from sharedllm.documents import KINDS, Extract, Kind, Part, open_document
from sharedllm.documents.places import place_of
from sharedllm.utils import text_files
from sharedllm.utils.errors import UserError


def test_text_is_as_it_is(tmp_path):
    for name in ("a.txt", "a.py", "a.unknown", "README"):
        (tmp_path / name).write_text("one\n\n  two\n")
        opened = open_document(str(tmp_path / name))
        assert (opened.text(), opened.origin.unit, opened.kind) == ("one\n\n  two\n", "line", "text")


@pytest.mark.parametrize("piece", [5, 6, 7, text_files.PIECE])
@pytest.mark.parametrize("code", ["utf-8", "utf-16", "cp1252"])
def test_old_line_ends_are_line_ends_and_move_no_character(tmp_path, monkeypatch, piece, code):
    monkeypatch.setattr(text_files, "PIECE", piece)
    for raw, text in (
        ("é\r\rb\rc", "é\n\nb\nc"), ("é\r", "é\n"), ("é\r\n\rb\r\n", "é\r\n\nb\r\n"), ("\ré\r\r\nb", "\né\n\r\nb"),
    ):  # fmt: skip
        (tmp_path / "a.txt").write_bytes(raw.encode(code))
        assert open_document(str(tmp_path / "a.txt")).text() == text and len(text) == len(raw)
    (tmp_path / "a.md").write_bytes("# One\rone\r# Two\rtwo".encode(code))
    places = open_document(str(tmp_path / "a.md")).origin.places
    assert places == ((0, 'section "One"'), (10, 'section "Two"'))
    (tmp_path / "a.json").write_text(json.dumps([{"a": "b\rc"}]))
    assert open_document(str(tmp_path / "a.json")).text() == "a: b\nc\n"


def test_headings_of_markdown_are_places(tmp_path):
    text = "intro\n\n# First #\none\n```sh\n# no heading\n```\n## Second\ntwo\n#nor this\n"
    (tmp_path / "a.md").write_text(text)
    opened = open_document(str(tmp_path / "a.md"))
    assert opened.text() == text and opened.origin.unit == "line"
    first, second = text.index("# First"), text.index("## Second")
    assert opened.origin.places == ((first, 'section "First"'), (second, 'section "Second"'))


@pytest.mark.parametrize(
    ("code", "inside"),
    [
        ("```sh\n{}\n```\n", True),
        ("```\n```python\n{}\n``` \n", True),
        ("````\n```\n{}\n`````\n", True),
        ("~~~ a`b\n```\n{}\n~~~\n", True),
        ("```sh\r\n{}\n```\r\n", True),
        ("```\n``` \n{}\n", False),
        ("```code``` in a line\n{}\n", False),
    ],
)
def test_a_heading_in_fenced_code_is_none(tmp_path, code, inside):
    (tmp_path / "a.md").write_bytes((code.format("# Text") + "## Last #\r\n").encode())
    places = [place for _, place in open_document(str(tmp_path / "a.md")).origin.places]
    assert places == ['section "Text"'] * (not inside) + ['section "Last"']


def test_a_page_without_what_surrounds_it(tmp_path):
    page = """<!doctype html><html><head><title> A  page </title><style>b {}</style><script>var x = "<p>no</p>";</script></head>
    <body><nav><a href=x>Home</a></nav><header>Site</header><main><h1>Birds</h1><p>The <b>silver</b> falcon
    flies.<br>Fast.</p><ul><li>one<li><p>two</p></ul><table><tr><th>code</th><th>of</th></tr><tr><td>48213</td><td><p>falcon</p></td></tr></table>
    <pre>a  b
  c</pre><h2>Fish</h2><p>caf&eacute;</p><form role=search>search</form><div hidden>secret</div></main><footer>© us</footer></body></html>"""
    (tmp_path / "a.html").write_text(page)
    opened = open_document(str(tmp_path / "a.html"))
    assert opened.origin.title == "A page"
    assert opened.text() == (
        "A page\n\nBirds\n\nThe silver falcon flies.\nFast.\n\n- one\n- two\n\ncode | of\n48213 | falcon\n\na  b\n  c\n\nFish\n\ncafé\n"
    )
    assert [place for place, _ in placed(opened)] == ['section "Birds"', 'section "Fish"']


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ('<form id="aspnetForm"><h1>Tides</h1><p>At 6:14.<button>Send</button></form>', "Tides\n\nAt 6:14.\n"),
        ("<p hidden>x<p>Visible one.<p>Visible two.", "Visible one.\n\nVisible two.\n"),
        ("<ul><li hidden>x<li>Shown item</ul><p>After.", "- Shown item\n\nAfter.\n"),
        ("<ul><li hidden>x</ul><p>After.", "After.\n"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>z", "a | b\nc | d\n\nz\n"),
        ("<ul><li>A<ul><li>B</ul><li>C</ul>", "- A\n- B\n- C\n"),
        (
            "<ol><li>A<ul><li>B</ul><li><p>C</p><ol start=7><li>D</ol><li value=9>E<li></li><li>F</ol>",
            "1. A\n- B\n2. C\n7. D\n9. E\n11. F\n",
        ),
        ('<ol start="x"><li>A</ol></ol><li>B', "1. A\n- B\n"),
        ("<table><tr><td><ol><li>A<li>B</ol><td>C</table><ul><li>D</ul>", "A\nB | C\n\n- D\n"),
    ],
)
def test_what_has_no_end_tag_ends_as_in_a_browser(tmp_path, page, text):
    (tmp_path / "a.html").write_text(page)
    assert open_document(str(tmp_path / "a.html")).text() == text


def test_a_page_costs_no_more_than_its_length(tmp_path):
    began = time.perf_counter()
    (tmp_path / "a.html").write_text("<div>" * 50_000 + "<p>a<a>b</a>\n" * 20_000)
    assert open_document(str(tmp_path / "a.html")).text().startswith("ab")
    assert time.perf_counter() - began < 10, "it took minutes when each end tag searched all that was open"


@pytest.mark.parametrize(
    ("head", "encoding"),
    [("", "cp1252"), ('<meta charset="iso-8859-2">', "iso-8859-2"), ("", "utf-16"), ("", "utf-8-sig")],
)
def test_the_encoding_of_a_page(tmp_path, head, encoding):
    (tmp_path / "a.htm").write_bytes(f"<html>{head}<p>é is a letter".encode(encoding))
    assert open_document(str(tmp_path / "a.htm")).text() == "é is a letter\n"


@pytest.mark.parametrize(
    "page",
    [
        "<html><body><table><tr><td>bird</td><td>5</td></tr></table></body></html>",
        "\n<TABLE><TR><TD>bird</TD><TD>5</TD></TR></TABLE>",
        '<?xml version="1.0"?>\n<!DOCTYPE html><p>bird | 5</p>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_page_that_is_named_as_a_workbook(tmp_path, page, encoding):
    for name in ("export.xls", "wiki.DOC"):
        path = tmp_path / name
        path.write_bytes(page.encode(encoding))
        opened = open_document(str(path))
        assert (opened.kind, opened.text().strip()) == ("HTML", "bird | 5")


def test_a_pdf_by_page(tmp_path):
    long = (
        "This line is long enough to be the line of a paragraph that goes on in\nthe next line. And ends.\nShort\nlines"
    )
    opened = open_document(str(pdf(tmp_path / "a.pdf", [long, "", "The code is 48213."], title="A report")))
    assert (opened.kind, opened.origin.title) == ("PDF", "A report")
    assert placed(opened) == [
        ("page 1", long.replace("in\nthe", "in the") + "\n\n"),
        ("page 3", "The code is 48213.\n\n"),
    ]


def test_a_book_by_chapter(tmp_path):
    chapters = {"The Sea": "<h2>I</h2><p>Waves.</p>", "The Land": "<p>Hills.</p>"}
    opened = open_document(str(epub(tmp_path / "a.epub", chapters, title="A Book")))
    assert (opened.kind, opened.origin.title) == ("EPUB", "A Book")
    assert placed(opened) == [('chapter "The Sea"', "I\n\nWaves.\n\n"), ('chapter "The Land"', "Hills.\n\n")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_by_row(tmp_path, delimiter):
    rows = [
        ["name", "code", "note"],
        ["falcon", "48213", ""],
        [],
        ["hawk", "7", '"two\nlines"'],
        ["owl", "9", "", "more"],
    ]
    (tmp_path / "a.csv").write_text("\n".join(delimiter.join(row) for row in rows) + "\n")
    opened = open_document(str(tmp_path / "a.csv"))
    assert opened.origin.unit == "row"
    assert opened.text().split("\n") == [
        "name; code; note", "name: falcon; code: 48213", "", "name: hawk; code: 7; note: two lines", "name: owl; code: 9; more", "",
    ]  # fmt: skip


TABLES = {
    "1,2\n3,4\n": "1; 2\n3; 4\n",
    ",name,age,\n0,Anna,31,\n": "name; age\n0; name: Anna; age: 31\n",
    # A blank, a repeated and a numeric name cost the others nothing.
    "name,,age\nAnna,x,31\n": "name; age\nname: Anna; x; age: 31\n",
    "name,age,name\nAnna,31,Ann\n": "name; age; name\nname: Anna; age: 31; name: Ann\n",
    "name,age,2023\nAnna,31,5\n": "name; age; 2023\nname: Anna; age: 31; 2023: 5\n",
    "land,2022,2023\nPeru,33,34\n": "land; 2022; 2023\nland: Peru; 2022: 33; 2023: 34\n",
    # Rows of values, and a title.
    "Anna,31,Bonn\nBob,25,Rome\n": "Anna; 31; Bonn\nBob; 25; Rome\n",
    "Anna,1987,Bonn\nBob,1990,Rome\n": "Anna; 1987; Bonn\nBob; 1990; Rome\n",
    "Anna,1987,2010\nBob,1990,2012\n": "Anna; 1987; 2010\nBob; 1990; 2012\n",
    "Ages,,\nname,age,town\n": "Ages\nname; age; town\n",
    # What tells Excel the delimiter is no row.
    "sep=;\nname;age\nAnna, M.;31\n": "name; age\nname: Anna, M.; age: 31\n",
    "\n\n1,2\n": "\n\n1; 2\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_the_names_of_a_table(tmp_path, table):
    (tmp_path / "a.csv").write_text(table)
    assert open_document(str(tmp_path / "a.csv")).text() == TABLES[table]


CHATS = {
    "openai": {
        "messages": [
            {"role": "user", "content": "Hi?"},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        ]
    },
    "bare": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}],
    "claude": [
        {"name": "", "chat_messages": [{"sender": "user", "text": "Hi?"}, {"sender": "assistant", "text": "Yes."}]}
    ],
    "sharegpt": {"conversations": [{"from": "user", "value": "Hi?"}, {"from": "assistant", "value": "Yes."}]},
    "telegram": {
        "messages": [
            {"from": "user", "text": ["Hi", {"type": "bold", "text": "?"}]},
            {"from": "assistant", "text": "Yes."},
        ]
    },
    "discord": {
        "messages": [
            {"author": {"name": "user"}, "content": "Hi?"},
            {"author": {"name": "assistant"}, "content": "Yes."},
        ]
    },
    "slack": [
        {"user": "U1", "user_profile": {"real_name": "user"}, "text": "Hi?"},
        {"user": "assistant", "text": "Yes."},
    ],
    "chatgpt": [
        {
            "title": "",
            "current_node": "c",
            "mapping": {
                "a": {"message": None, "parent": None, "children": ["b"]},
                "b": {
                    "message": {"author": {"role": "user"}, "content": {"parts": ["Hi?"]}},
                    "parent": "a",
                    "children": ["x", "c"],
                },
                "x": {
                    "message": {"author": {"role": "assistant"}, "content": {"parts": ["No."]}},
                    "parent": "b",
                    "children": [],
                },
                "c": {
                    "message": {"author": {"role": "assistant"}, "content": {"parts": ["Yes."]}},
                    "parent": "b",
                    "children": [],
                },
            },
        }
    ],
}


@pytest.mark.parametrize("name", CHATS)
def test_exported_chats(tmp_path, name):
    (tmp_path / "a.json").write_text(json.dumps(CHATS[name]))
    opened = open_document(str(tmp_path / "a.json"))
    assert opened.text() == "user: Hi?\n\nassistant: Yes.\n\n"
    assert [place for place, _ in placed(opened)] == ["messages 1–2"]


def test_several_chats_with_times(tmp_path):
    said = {"role": "user", "content": "word " * 100, "created_at": "2026-05-01T12:30:59Z"}
    (tmp_path / "a.json").write_text(json.dumps([{"title": "Trip", "messages": [said, said]}, {"messages": [said]}]))
    opened = open_document(str(tmp_path / "a.json"))
    assert [place for place, _ in placed(opened)] == [
        'chat "Trip", message 1',
        'chat "Trip", message 2',
        "chat 2, message 1",
    ]
    assert opened.text().startswith("Trip\n\n[2026-05-01 12:30] user: word")


def test_records_and_other_json(tmp_path):
    records = [
        {"name": f"bird {i}", "about": {"code": i, "gone": None}, "tags": ["a", "b"], "text": "word " * 60}
        for i in range(4)
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name in ("a.json", "a.jsonl"):
        opened = open_document(str(tmp_path / name))
        assert [place for place, _ in placed(opened)] == ["records 1–2", "records 3–4"]
        assert "name: bird 3\nabout.code: 3\ntags: a, b\ntext: word" in opened.text() and "gone" not in opened.text()
    (tmp_path / "b.json").write_text('{\n "a": 1,\n "b": [1, 2]\n}\n')
    opened = open_document(str(tmp_path / "b.json"))
    assert (opened.text(), opened.origin.unit) == ('{\n "a": 1,\n "b": [1, 2]\n}\n', "line")
    (tmp_path / "c.json").write_text(json.dumps({"half": "\ud800", "numbers": list(range(3000))}))
    opened = open_document(str(tmp_path / "c.json"))
    assert opened.origin.unit == "" and '"half": "?"' in opened.text() and "\n  2999\n" in opened.text()


def test_short_records_are_lines(tmp_path):
    """As rows of a table are, so that no piece ends between their values."""
    orders = [{"id": i, "buyer": {"name": "Ötto", "city": None}, "tags": ["a", "b"]} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps([*orders, {}, {"said": "one\ntwo", "by": "Ann"}]))
    text = open_document(str(tmp_path / "a.json")).text()
    assert text == "".join(f"id: {i}; buyer.name: Ötto; tags: a, b\n" for i in range(3)) + "said: one\ntwo\nby: Ann\n\n"
    nested: dict = {"note": "x" * 2500}
    for _ in range(5):
        nested = {"inside": nested, "of": []}
    for value in ({"orders": orders * 30, "empty": {}}, nested, {"numbers": [[1, 2]] * 900}):
        (tmp_path / "b.json").write_text(json.dumps(value))
        text = open_document(str(tmp_path / "b.json")).text()
        assert json.loads(text) == value and text.count("\n") > 5
        assert all(len(line) < 310 or "xxx" in line for line in text.splitlines())
    (tmp_path / "b.json").write_text(json.dumps({"orders": orders * 30}))
    lines = open_document(str(tmp_path / "b.json")).text().splitlines()
    assert lines[:2] == ["{", ' "orders": ['] and len(lines) == 94
    assert all(json.loads(line.strip(" ,")) in orders for line in lines[2:-2])


def test_a_notebook_by_cell(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Birds\n", "All."]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"text": ["1\n"]}, {"data": {"text/plain": "2"}}]},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert placed(open_document(str(tmp_path / "a.ipynb"))) == [
        ("cell 1", "# Birds\nAll.\n\n"),
        ("cell 2", "print(1)\n1\n2\n\n"),
    ]


def test_a_kind_is_known_by_what_is_in_the_file(tmp_path):
    pdf(tmp_path / "report", ["Text."])
    epub(tmp_path / "book.zip", {"One": "<p>Text.</p>"})
    docx(tmp_path / "letter.bin", [("", "Text.")])
    assert [open_document(str(tmp_path / name)).kind for name in ("report", "book.zip", "letter.bin")] == [
        "PDF",
        "EPUB",
        "DOCX",
    ]


REFUSED = {
    "scan.pdf": "has no text on its 2 pages, as a scan has: make its text readable with OCR first",
    "locked.pdf": "is locked: it needs a password; save it without one",
    "damaged.pdf": "is damaged: it can't be opened as a PDF",
    "cut.pdf": "is damaged",
    "locked.docx": "is locked: it needs a password",
    "damaged.docx": "is damaged",
    "damaged.epub": "is damaged",
    "blank.docx": "has no text",
    "blank.epub": "has no text",
    "protected.epub": "is locked: it is protected against copying",
    "broken.json": "is not JSON: ",
    "broken.jsonl": "broken.jsonl:2 is not JSON: ",
    "repeated.json": "repeated.json: 'content' is there twice: rename one, or name the file .txt",
    "repeated.jsonl": "repeated.jsonl:2: 'text' is there twice: rename one",
    "broken.ipynb": "is not a notebook of format 4",
    "photo.png": "is of a kind that can't be read: make its text readable with OCR first",
    "old.doc": "is of a kind that can't be read: save it as .docx",
    "program": "is of a kind that can't be read: convert it to one of text, Markdown, HTML, PDF",
    "empty.html": "is empty: there is nothing to read",
    "empty.txt": "is empty: there is nothing to read",
    "latin.csv": "is not UTF-8: byte 3 is 0xe9; convert it",
}


@pytest.fixture
def refused(tmp_path):
    pdf(tmp_path / "scan.pdf", ["", ""])
    pdf(tmp_path / "locked.pdf", ["secret"], locked=True)
    (tmp_path / "damaged.pdf").write_bytes(b"not a PDF")
    (tmp_path / "cut.pdf").write_bytes(pdf(tmp_path / "x.pdf", ["text"]).read_bytes()[:200])
    (tmp_path / "locked.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    (tmp_path / "damaged.docx").write_bytes(docx(tmp_path / "x.docx", [("", "text")]).read_bytes()[:900])
    (tmp_path / "damaged.epub").write_bytes(b"PK\x03\x04 and nothing")
    docx(tmp_path / "blank.docx", [("", " ")])
    epub(tmp_path / "blank.epub", {"Cover": "<img src='x.png'/>"})
    epub(tmp_path / "protected.epub", {"One": "<p>text</p>"})
    archive_of = tmp_path / "protected.epub"

    with zipfile.ZipFile(archive_of, "a") as file:
        file.writestr(
            "META-INF/encryption.xml",
            '<e xmlns:x="http://www.w3.org/2001/04/xmlenc#"><x:CipherReference URI="OPS/text/c%200.xhtml"/></e>',
        )
    (tmp_path / "broken.json").write_text('{"a": ')
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a"\n')
    (tmp_path / "repeated.json").write_text('{"messages": [{"role": "user", "content": "a", "content": "b"}]}')
    (tmp_path / "repeated.jsonl").write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n')
    (tmp_path / "broken.ipynb").write_text("{}")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "old.doc").write_bytes(b"\xd0\xcf\x11\xe0\0")
    (tmp_path / "program").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "empty.html").write_text("<html><body><nav>Home</nav></body></html>")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9\x01,1\n")
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_read_says_why_and_what_to_do(refused, name):
    with pytest.raises(UserError) as error:
        open_document(str(refused / name))
    message = str(error.value)
    assert REFUSED[name] in message and message.startswith(str(refused / name)) and "\n" not in message


def test_xml_that_expands_without_end_is_refused(tmp_path):
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 10}">' for i in range(12))
    bomb = f"<!DOCTYPE c [{entities}]><c>&e11;</c>"
    archive(tmp_path / "a.epub", {"META-INF/container.xml": bomb})
    with pytest.raises(UserError, match="is damaged"):
        open_document(str(tmp_path / "a.epub"))


@pytest.mark.parametrize(("name", "library"), [("a.pdf", "pypdfium2"), ("a.docx", "mammoth")])
def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch, name, library):
    pdf(tmp_path / "a.pdf", ["text"])
    docx(tmp_path / "a.docx", [("", "text")])
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf'a\.\w+ needs the library {library}: pip install "sharedllm\[documents\]"'):
        open_document(str(tmp_path / name))


def test_others_can_add_a_kind(tmp_path):
    KINDS.add(
        "upper", Kind("UPPER", (".upper",), lambda path: Extract([Part(path.read_text().lower(), "page 1")])), "shouted"
    )
    try:
        (tmp_path / "a.upper").write_text("TEXT")
        opened = open_document(str(tmp_path / "a.upper"))
        assert (opened.text(), opened.kind, opened.origin.places) == ("text", "UPPER", ((0, "page 1"),))
    finally:
        KINDS.remove("upper")


@pytest.mark.parametrize(
    ("extract", "message"),
    [
        (lambda path: "text", "gives str where Extract is needed"),
        (lambda path: None, "gives NoneType where"),
        (lambda path: Extract(["text"]), "gives str where Part is needed"),
        (lambda path: Extract(iter(["text"])), "gives str where Part is needed"),
        (lambda path: Extract([Part(b"text")]), "gives bytes where str is needed"),
        (lambda path: Extract(5), "failed with TypeError: 'int' object is not iterable"),
        (lambda path: 1 / 0, "failed with ZeroDivisionError: division by zero"),
        (lambda path: Extract(Part(str(1 / n)) for n in (1, 0)), "failed with ZeroDivisionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_kind_that_fails_is_named(tmp_path, extract, message):
    KINDS.add("bad", Kind("BAD", (".bad",), extract), "bad")
    try:
        (tmp_path / "a.bad").write_text("TEXT")
        with pytest.raises(UserError, match=f"a.bad can't be read: the document kind 'BAD' {message}"):
            open_document(str(tmp_path / "a.bad"))
    finally:
        KINDS.remove("bad")


def test_long_files_are_read_twice_instead_of_held(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("# One\ntext\n# Two\nmore\n")
    held = open_document(str(tmp_path / "a.md"))
    monkeypatch.setattr("sharedllm.documents.opening.HELD", 3)
    read = open_document(str(tmp_path / "a.md"))
    assert (read.text(), read.origin) == (held.text(), held.origin) and read.text() == read.text()


@pytest.mark.parametrize(
    ("places", "start", "end", "unit", "lines", "said"),
    [
        ([(0, "page 1"), (10, "page 2"), (20, "page 4")], 10, 20, "", None, "page 2"),
        ([(0, "page 1"), (10, "page 2"), (20, "page 4")], 5, 21, "", None, "pages 1–4"),
        ([(0, "messages 1–4"), (10, "message 5")], 5, 11, "", None, "messages 1–5"),
        (
            [(0, 'chat "a", message 1'), (10, 'chat "b", message 1')],
            5,
            11,
            "",
            None,
            'chat "a", message 1 to chat "b", message 1',
        ),
        ([(0, 'chat "a", message 1'), (10, 'chat "a", messages 2–3')], 5, 11, "", None, 'chat "a", messages 1–3'),
        ([(5, 'section "One"')], 0, 4, "line", (1, 1), "line 1"),
        ([(5, 'section "One"')], 6, 40, "line", (2, 4), 'lines 2–4, section "One"'),
        (
            [(5, 'section "One"'), (9, 'section "Two"'), (30, 'section "Three"')],
            6,
            20,
            "line",
            (2, 4),
            'lines 2–4, section "One" to section "Two"',
        ),
        ([], 0, 5, "row", (2, 3), "rows 2–3"),
        ([], 0, 5, "", (2, 3), ""),
    ],
)
def test_places_in_words(places, start, end, unit, lines, said):
    assert place_of(places, start, end, unit, lines) == said
