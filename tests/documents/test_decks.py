"""Slides of PowerPoint and OpenDocument: titles, texts in order, notes, tables, and what is left out."""

import zipfile

from made_documents import archive, placed
from made_office import A, R, frame, lines, odf, page, pptx, refusal, relations, shape

from sharedllm.documents import open_document
from sharedllm.documents.places import span


def test_slides_by_number(tmp_path):
    first = shape("Owls", "Hawks") + shape("7", kind="sldNum") + shape("Birds &amp; bees", kind="title")
    notes = shape("Say hello.", kind="body") + shape("1", kind="sldNum")
    made = pptx(tmp_path / "a.pptx", [first, "", shape("Later.")], notes={1: notes}, hidden=(3,), title="A deck")
    opened = open_document(str(made))
    assert (opened.kind, opened.origin.title) == ("PPTX", "A deck")
    assert placed(opened) == [
        ("slide 1", "Birds & bees\n\nOwls\nHawks\n\nNotes: Say hello.\n\n"),
        ("hidden slide 3", "Later.\n\n"),
    ]
    assert span("slide 1", "slide 4") == "slides 1–4"


def test_slides_come_in_the_order_of_the_list(tmp_path):
    made = relations(slide1="slides/s2.xml", slide2="/ppt/slides/s1.xml")
    path = pptx(tmp_path / "a.pptx", [shape("A"), shape("B")], more={"ppt/_rels/presentation.xml.rels": made})
    assert open_document(str(path)).text() == "B\n\nA\n\n"


def test_groups_tables_and_what_is_there_in_two_forms(tmp_path):
    group = f"<p:grpSp><p:grpSp>{shape('Inner')}</p:grpSp>{shape('Outer')}</p:grpSp>"
    cell, merged = "<a:tc{}>{}</a:tc>".format, ' hMerge="1"'
    rows = f"<a:tr>{cell('', lines('name'))}{cell('', lines('in', 'two'))}</a:tr><a:tr>{cell('', lines('falcon'))}{cell(merged, lines())}</a:tr>"
    table = (
        f"<p:graphicFrame><a:graphic><a:graphicData><a:tbl>{rows}</a:tbl></a:graphicData></a:graphic></p:graphicFrame>"
    )
    forms = f"<mc:AlternateContent><mc:Choice>{shape('x = 1')}</mc:Choice><mc:Fallback>{shape('a picture')}</mc:Fallback></mc:AlternateContent>"
    path = pptx(tmp_path / "a.pptx", [group + table + forms])
    assert open_document(str(path)).text() == "Inner\n\nOuter\n\nname | in two\nfalcon\n\nx = 1\n\n"


def test_paragraphs_of_a_slide(tmp_path):
    def numbered(text: str, form: str, more: str = "") -> str:
        return f'<a:pPr {more}><a:buAutoNum type="{form}"/></a:pPr><a:r><a:t>{text}</a:t></a:r>'

    texts = (
        numbered("A", "arabicPeriod"), numbered("B", "alphaLcParenBoth", 'lvl="1"'), numbered("C", "arabicPeriod"), "Between", "<a:r><a:t> </a:t></a:r>",
        numbered("D", "romanUcParenR"), '<a:pPr lvl="1"/><a:r><a:t>one</a:t></a:r><a:br/><a:fld type="slidenum"><a:t>two</a:t></a:fld>',
    )  # fmt: skip
    path = pptx(tmp_path / "a.pptx", [shape(*texts)])
    assert open_document(str(path)).text() == "1. A\n(a) B\n2. C\nBetween\nI) D\n- one\ntwo\n\n"


def test_diagrams_and_charts(tmp_path):
    def refers(inner: str) -> str:
        return f"<p:graphicFrame><a:graphic><a:graphicData>{inner}</a:graphicData></a:graphic></p:graphicFrame>"

    point = '<c:pt idx="{}"><c:v>{}</c:v></c:pt>'.format
    series = f"<c:ser><c:tx><c:v>Sales</c:v></c:tx><c:cat>{point(0, 'Q1')}{point(1, 'Q2')}</c:cat><c:val>{point(0, 1.5)}{point(1, 2)}</c:val></c:ser>"
    body = "<d:pt><d:t><a:p><a:r><a:t>{}</a:t></a:r></a:p></d:t></d:pt>".format
    more = {
        "ppt/slides/_rels/s1.xml.rels": relations(chart1="../c.xml", diagramData1="../d.xml"),
        "ppt/c.xml": f'<c:chartSpace xmlns:c="c" xmlns:a="{A}"><c:chart><c:plotArea>{series}</c:plotArea></c:chart></c:chartSpace>',
        "ppt/d.xml": f'<d:dataModel xmlns:d="d" xmlns:a="{A}"><d:ptLst>{body("Plan")}{body("Do")}</d:ptLst></d:dataModel>',
    }
    slide = refers('<c:chart xmlns:c="c" r:id="chart1"/>') + refers('<d:relIds xmlns:d="d" r:dm="diagramData1"/>')
    path = pptx(tmp_path / "a.pptx", [slide], more=more)
    assert open_document(str(path)).text() == "Sales: Q1 1.5; Q2 2\n\nPlan\nDo\n\n"


def test_slides_of_the_strict_standard(tmp_path):
    path = pptx(tmp_path / "a.pptx", [shape("Text.", kind="title")])
    with zipfile.ZipFile(path) as members:
        parts = {name: members.read(name).decode() for name in members.namelist()}
    other = {name: part.replace(R, "http://purl.oclc.org/ooxml/officeDocument/relationships").replace(A, "http://purl.oclc.org/ooxml/drawingml/main") for name, part in parts.items()}  # fmt: skip
    assert open_document(str(archive(path, other))).text() == "Text.\n\n"


def test_opendocument_slides(tmp_path):
    empty = '<draw:frame presentation:class="outline" presentation:placeholder="true"><draw:text-box><text:p>Click</text:p></draw:text-box></draw:frame>'
    table = "<draw:frame><table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table></draw:frame>"
    items = "<text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>"
    group = "<draw:g><draw:custom-shape><text:p>grouped</text:p></draw:custom-shape></draw:g>"
    notes = f"<presentation:notes><draw:page-thumbnail/>{frame('<text:p>Say hello.</text:p>', 'notes')}</presentation:notes>"
    first = page(
        frame(items, "outline"),
        frame("<text:p>Birds</text:p>", "title"),
        group,
        table,
        empty,
        frame("<text:p>9</text:p>", "page-number"),
        notes,
    )
    hidden = (
        '<style:style style:name="dp2"><style:drawing-page-properties presentation:visibility="hidden"/></style:style>'
    )
    path = odf(
        tmp_path / "a.odp",
        "presentation",
        first + page() + page(frame("<text:p>Later.</text:p>"), style="dp2"),
        hidden,
        title="A deck",
    )
    opened = open_document(str(path))
    assert (opened.kind, opened.origin.title) == ("ODP", "A deck")
    assert placed(opened) == [
        ("slide 1", "Birds\n\n- one\n\ngrouped\n\na | b\n\nNotes: Say hello.\n\n"),
        ("hidden slide 3", "Later.\n\n"),
    ]


def test_slides_that_can_not_be_read(tmp_path):
    ocr = "make its text readable with OCR, for instance with ocrmypdf"
    for path in (pptx(tmp_path / "a.pptx", ["", shape(" ")]), odf(tmp_path / "a.odp", "presentation", page() * 2)):
        said = refusal(path)
        assert "has no text on its 2 slides" in said and ocr in said
    assert "has no text on its slide 1, " in refusal(pptx(tmp_path / "b.pptx", [""]))
    (tmp_path / "c.pptx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert "is locked: it needs a password, or is an old .ppt; save it as .pptx without one" in refusal(
        tmp_path / "c.pptx"
    )
    (tmp_path / "c.ppt").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert "is of a kind that can't be read: save it as .pptx." in refusal(tmp_path / "c.ppt")
    assert "is damaged, or no PPTX: it is a ZIP file without slides" in refusal(
        archive(tmp_path / "d.pptx", {"a.txt": "text"})
    )
    (tmp_path / "h.pptx").write_text("plain text")
    assert "is damaged, or no PPTX: it does not begin as a ZIP file does" in refusal(tmp_path / "h.pptx")
    assert "is damaged" in refusal(archive(tmp_path / "d.odp", {"a.txt": "text"}))
    assert "is locked: it needs a password" in refusal(odf(tmp_path / "e.odp", "presentation", page(), locked=True))
    (tmp_path / "f.pptx").write_bytes(pptx(tmp_path / "x.pptx", [shape("text")]).read_bytes()[:900])
    assert "is damaged" in refusal(tmp_path / "f.pptx")
    missing = pptx(
        tmp_path / "g.pptx",
        [shape("text")],
        more={"ppt/_rels/presentation.xml.rels": relations(slide1="slides/none.xml")},
    )
    assert "is damaged" in refusal(missing)
