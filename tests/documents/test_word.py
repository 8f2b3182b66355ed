"""Word documents: their sections, tables and notes, and the numbers of their lists and headings."""

import re
import zipfile
from pathlib import Path

import pytest
from made_documents import W, archive, docx, placed

from sharedllm.documents import open_document
from sharedllm.utils.errors import UserError


def test_a_word_document_by_section(tmp_path):
    blocks = [
        ("Heading1", "Birds"),
        ("", "The falcon."),
        ("table", "name|code\nsilver|48213"),
        ("Heading2", "Fish"),
        ("", "None."),
    ]
    opened = open_document(str(docx(tmp_path / "a.docx", blocks, title="Animals", footnote="A note below.")))
    assert (opened.kind, opened.origin.title) == ("DOCX", "Animals")
    (birds, first), (fish, second) = placed(opened)
    assert (birds, fish) == ('section "Birds"', 'section "Fish"')
    assert "The falcon.\n" in first and "name | code\nsilver | 48213\n" in first and "[1] A note below." in second


def _rules(kind: int, *levels: tuple[str, str], start: int = 1) -> str:
    """A kind of lists, and list `kind` of it. levels: form and text of the numbers of each."""
    each = "".join(
        f'<w:lvl w:ilvl="{i}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/><w:lvlText w:val="{text}"/></w:lvl>'
        for i, (form, text) in enumerate(levels)
    )
    return f'<w:abstractNum w:abstractNumId="{kind}">{each}</w:abstractNum>' + _list(kind, kind)


def _list(number: int, kind: int, anew: int | None = None) -> str:
    again = f'<w:lvlOverride w:ilvl="0"><w:startOverride w:val="{anew}"/></w:lvlOverride>' if anew is not None else ""
    return f'<w:num w:numId="{number}"><w:abstractNumId w:val="{kind}"/>{again}</w:num>'


def _parts(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as members:
        return {name: members.read(name).decode() for name in members.namelist()}


def _changed(path: Path, old: str, new: str) -> Path:
    """A Word document with other XML in its text."""
    parts = _parts(path)
    assert old in parts["word/document.xml"]
    return archive(path, parts | {"word/document.xml": parts["word/document.xml"].replace(old, new)})


def test_lists_and_headings_of_a_word_document_keep_their_numbers(tmp_path):
    rules = _rules(1, ("decimal", "%1."), ("lowerLetter", "(%2)"), ("upperRoman", "%1.%3")) + _list(2, 1, anew=7)
    rules += _rules(3, ("bullet", "o")) + _rules(4, ("lowerRoman", "§ %1"), start=9)
    rules += _rules(9, ("decimal", "%1"), ("decimal", "%1.%2"))
    rules += '<w:abstractNum w:abstractNumId="5"><w:numStyleLink w:val="Legal"/></w:abstractNum>' + _list(5, 5)
    blocks = [
        ("Heading1", "Terms"), ("1:0", "A"), ("1:1", "B"), ("1:1", "C"), ("1:2", "D"), ("1:0", "E"), ("1:1", "F"), ("", "Between."),
        ("1:0", "G"), ("2:0", "H"), ("2:0", "I"), ("Heading2", "Rent"), ("3:0", "J"), ("4:0", "K"), ("4:0", "L"), ("5:0", "M"), ("7:0", "N"),
        ("Heading2", "Pets"), ("", "None."),
    ]  # fmt: skip
    opened = open_document(str(docx(tmp_path / "a.docx", blocks, rules=rules)))
    assert placed(opened) == [
        ('section "1 Terms"', "1 Terms\n\n1. A\n(a) B\n(b) C\n1.I D\n2. E\n(a) F\n\nBetween.\n\n3. G\n7. H\n8. I\n"),
        ('section "1.1 Rent"', "\n1.1 Rent\n\n- J\n§ ix K\n§ x L\n§ xi M\n\nN\n"),
        ('section "1.2 Pets"', "\n1.2 Pets\n\nNone.\n"),
    ]


def test_rules_for_the_numbers_of_a_word_document(tmp_path):
    """All numbers of a label in digits; a level that one list has instead; levels that go on counting, or begin anew later."""

    def read(rules: str, *styles: str) -> str:
        return open_document(str(docx(tmp_path / "a.docx", [(style, "x") for style in styles], rules=rules))).text()

    rules = _rules(1, ("upperRoman", "Article %1."), ("decimalZero", "Section %1.%2"), ("lowerLetter", "(%3)"))
    lawful = rules.replace('<w:numFmt w:val="decimalZero"/>', '<w:numFmt w:val="decimalZero"/><w:isLgl{}/>')
    assert read(lawful.format(""), "1:0", "1:1") == "Article I. x\nSection 1.01 x\n"
    assert read(lawful.format(' w:val="0"'), "1:0", "1:1") == "Article I. x\nSection I.01 x\n"

    level = (
        '<w:lvl w:ilvl="0"><w:start w:val="5"/><w:numFmt w:val="upperLetter"/><w:lvlText w:val="Annex %1:"/></w:lvl>'
    )
    instead = _list(2, 1).replace("</w:num>", f'<w:lvlOverride w:ilvl="0">{level}</w:lvlOverride></w:num>')
    assert read(rules + instead, "2:0", "2:0", "2:1") == "Annex E: x\nAnnex F: x\nSection F.01 x\n"
    assert read(rules + instead, "1:0", "1:0") == "Article I. x\nArticle II. x\n"

    assert read(_rules(1, ("decimal", "%1" + "-" * 98)), "1:0") == "1" + "-" * 98 + " x\n"
    assert read(_rules(1, ("decimal", "%1" + "-" * 99)), "1:0") == "x\n"

    for after, numbers in ((0, "abcd"), (1, "abca"), (2, "abaa"), (9, "abaa")):
        later = rules.replace('"lowerLetter"/>', f'"lowerLetter"/><w:lvlRestart w:val="{after}"/>')
        text = read(later, "1:0", "1:1", "1:2", "1:2", "1:1", "1:2", "1:0", "1:2")
        assert re.findall(r"\((.)\)", text) == list(numbers)


def test_what_is_deleted_in_a_word_document_is_not_counted(tmp_path):
    """A paragraph without its end goes on in the next one; one without text is counted, but has nothing to show."""

    def item(content: str, end: str = "") -> str:
        return f'<w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr><w:rPr>{end}</w:rPr></w:pPr>{content}</w:p>'

    def run(text: str) -> str:
        return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'

    def read(*items: str) -> str:
        made = docx(tmp_path / "a.docx", [("", "ITEMS")], rules=_rules(1, ("decimal", "%1.")))
        return open_document(str(_changed(made, f"<w:p>{run('ITEMS')}</w:p>", "".join(items)))).text()

    gone = "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
    a, b, deleted = item(run("A")), item(run("B")), "<w:del/>"
    assert read(a, item(gone, deleted), b) == "1. A\n2. B\n"
    assert read(a, item(run("B "), deleted), item(gone, deleted), item(run("C")), b) == "1. A\n2. B C\n3. B\n"
    assert read(a, item(f"<w:moveFrom>{run('B')}</w:moveFrom>", "<w:moveFrom/>"), b) == "1. A\n2. B\n"
    assert read(a, item(f"<w:del><w:r><w:txbxContent>{a}</w:txbxContent></w:r></w:del>", deleted), b) == "1. A\n2. B\n"
    assert read(item(run("A"), deleted), item("", "<w:moveFrom/>"), b) == "A\n1. B\n"
    row = f"<w:tbl><w:tr><w:trPr><w:del/></w:trPr><w:tc>{item(gone, deleted)}</w:tc></w:tr></w:tbl>"
    assert read(a, row, b) == "1. A\n2. B\n"
    for nothing in ("", run("  "), gone):
        assert read(a, item(nothing), b) == "1. A\n3. B\n"


def test_what_a_word_document_has_in_two_forms_is_counted_once(tmp_path):
    item = (
        '<w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr><w:r><w:t>{}</w:t></w:r></w:p>'
    )
    forms = f"<mc:Choice>{item.format('A')}</mc:Choice><mc:Fallback>{item.format('A')}</mc:Fallback>"
    made = docx(tmp_path / "a.docx", [("1:0", "FORMS"), ("1:0", "B")], rules=_rules(1, ("decimal", "%1.")))
    text = f'<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">{forms}</mc:AlternateContent>'
    _changed(made, item.format("FORMS").replace("<w:t>", '<w:t xml:space="preserve">'), text)
    assert open_document(str(made)).text() == "1. A\n2. B\n"
    strict = {
        name: part.replace(W, "http://purl.oclc.org/ooxml/wordprocessingml/main") for name, part in _parts(made).items()
    }
    assert open_document(str(archive(tmp_path / "strict.docx", strict))).text() == "- A\n- B\n"


@pytest.mark.parametrize("name", ["word/numbering.xml", "word/styles.xml"])
def test_a_damaged_part_of_a_word_document_is_named(tmp_path, name):
    made = docx(tmp_path / "a.docx", [("1:0", "A")], rules=_rules(1, ("decimal", "%1.")))
    archive(made, _parts(made) | {name: "<w:numbering>"})
    with pytest.raises(UserError, match=f"a.docx is damaged: its part {name} is no XML, unbound prefix"):
        open_document(str(made)).text()
