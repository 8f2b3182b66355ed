"""OpenDocument texts: their sections, lists, tables and notes, and what no longer or never was part of the text."""

from made_documents import archive, placed
from made_office import odf, refusal

from sharedllm.documents import open_document


def _read(tmp_path, body: str, automatic: str = "", outline: str = "") -> str:
    return open_document(str(odf(tmp_path / "a.odt", "text", body, automatic, outline))).text()


def test_a_text_by_section(tmp_path):
    table = (
        "<table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>name</text:p></table:table-cell><table:table-cell>"
        "<text:p>code</text:p></table:table-cell></table:table-row></table:table-header-rows><table:table-row><table:table-cell><text:p>silver"
        "</text:p></table:table-cell><table:table-cell><text:p>48213</text:p></table:table-cell></table:table-row></table:table>"
    )
    note = '<text:note text:note-class="footnote"><text:note-citation>*</text:note-citation><text:note-body><text:p>A note below.</text:p></text:note-body></text:note>'
    body = (
        '<text:sequence-decls><text:p>no</text:p></text:sequence-decls><text:h text:outline-level="1">Birds</text:h>'
        f"<text:section><text:p>The falcon{note}.</text:p></text:section>{table}"
        '<text:h text:outline-level="2">Fish</text:h><text:p>None.</text:p>'
    )
    opened = open_document(str(odf(tmp_path / "a.odt", "text", body, title="Animals")))
    assert (opened.kind, opened.origin.title) == ("ODT", "Animals")
    assert placed(opened) == [
        ('section "Birds"', "Birds\n\nThe falcon[1].\n\nname | code\nsilver | 48213\n"),
        ('section "Fish"', "\nFish\n\nNone.\n\n[1] A note below.\n"),
    ]


def test_spaces_and_what_is_no_text(tmp_path):
    deleted = "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p></text:deletion></text:changed-region></text:tracked-changes>"
    line = (
        'one<text:s text:c="3"/>two<text:tab/>three<text:line-break/>fo<text:soft-page-break/>ur <text:span>fi<text:span>ve</text:span></text:span>'
        '<office:annotation><dc:creator>Ann</dc:creator><text:p>why?</text:p></office:annotation> six<text:change text:change-id="1"/> &lt;7&gt;'
        "<text:title>Field</text:title>"
    )
    box = "<draw:frame><draw:text-box><text:p>In a box.</text:p></draw:text-box><svg:title>A picture</svg:title></draw:frame>"
    body = f"{deleted}<text:p>{line}</text:p><text:p>Before{box}, after.</text:p><text:table-of-content><text:p>1</text:p></text:table-of-content>"
    assert _read(tmp_path, body) == "one two three\nfour five six <7>Field\n\nBefore, after.\n\nIn a box.\n"
    assert (
        _read(tmp_path, f'<text:p>a<text:s text:c="{"9" * 30}"/>b<text:s text:c="999999999"/>c</text:p>') == "a b c\n"
    )


def _level(number: int, form: str, more: str = "") -> str:
    return f'<text:list-level-style-number text:level="{number}" style:num-format="{form}" {more}/>'


def _list(*items: str, more: str = "") -> str:
    return f"<text:list {more}>{''.join(items)}</text:list>"


def _item(text: str, *inner: str, more: str = "") -> str:
    return f"<text:list-item {more}><text:p>{text}</text:p>{''.join(inner)}</text:list-item>"


def test_lists_and_headings_keep_their_numbers(tmp_path):
    numbers = _level(1, "1", 'style:num-suffix="."') + _level(2, "a", 'style:num-prefix="(" style:num-suffix=")"')
    numbers += _level(3, "I", 'text:display-levels="3" text:start-value="4"')
    styles = f'<text:list-style style:name="L1">{numbers}</text:list-style><text:list-style style:name="L2"><text:list-level-style-bullet text:level="1"/></text:list-style>'
    outline = '<text:outline-style><text:outline-level-style text:level="1" style:num-format="1"/><text:outline-level-style text:level="2" style:num-format="1" text:display-levels="2"/><text:outline-level-style text:level="3" style:num-format=""/></text:outline-style>'
    one = 'text:style-name="L1"'
    body = (
        _list(_item("A", _list(_item("B"), _item("C", _list(_item("D"))))), _item("E", _list(_item("F"))), more=one)
        + '<text:h text:outline-level="1">Terms</text:h><text:h text:outline-level="2">Rent</text:h><text:h text:outline-level="3">Due</text:h>'
        + _list(
            _item("G"),
            _item("H", more='text:start-value="7"'),
            "<text:list-header><text:p>I</text:p></text:list-header>",
            more=one,
        )
        + '<text:h text:outline-level="1"> </text:h><text:h text:outline-level="1">Pets</text:h>'
        + _list(_item("J"), more=f'{one} text:continue-numbering="true"')
        + _list(_item("K"), more='text:style-name="L2"')
    )
    assert _read(tmp_path, body, styles, outline) == (
        "1. A\n(a) B\n(b) C\n1.b.IV D\n2. E\n(a) F\n\n1 Terms\n\n1.1 Rent\n\nDue\n\n1. G\n7. H\n\nI\n\n2 Pets\n\n8. J\n- K\n"
    )


def test_texts_that_can_not_be_read(tmp_path):
    made = odf(tmp_path / "a.odt", "text", "<text:p>text</text:p>")
    assert "has no text: leave it out" in refusal(odf(tmp_path / "b.odt", "text", "<text:p> </text:p>"))
    assert "is locked: it needs a password" in refusal(odf(tmp_path / "c.odt", "text", "", locked=True))
    (tmp_path / "d.odt").write_bytes(made.read_bytes()[:700])
    assert "is damaged" in refusal(tmp_path / "d.odt")
    assert "is damaged" in refusal(archive(tmp_path / "e.odt", {"a.txt": "text"}))
    assert "is nested too deeply" in refusal(
        odf(tmp_path / "f.odt", "text", "<text:section>" * 5000 + "</text:section>" * 5000)
    )
    # What is in a file says its kind, whatever its name is.
    (tmp_path / "letter.doc").write_bytes(made.read_bytes())
    assert open_document(str(tmp_path / "letter.doc")).kind == "ODT"
