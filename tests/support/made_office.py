"""Small slides, spreadsheets and OpenDocument files, made in code from their XML, and how a document is refused."""

from html import escape
from pathlib import Path

import pytest
from made_documents import archive

from sharedllm.documents import open_document
from sharedllm.utils.errors import UserError

A = "http://schemas.openxmlformats.org/drawingml/2006/main"
P = "http://schemas.openxmlformats.org/presentationml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_ODF = "urn:oasis:names:tc:opendocument:xmlns"
_SPACES = " ".join(
    f'xmlns:{short}="{_ODF}:{long}:1.0"'
    for short, long in (
        ("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing"), ("style", "style"), ("m", "manifest"),
        ("presentation", "presentation"), ("svg", "svg-compatible"),
    )
) + ' xmlns:dc="http://purl.org/dc/elements/1.1/"'  # fmt: skip


def relations(**targets: str) -> str:
    """A list of relations: id, which begins with the kind → target."""
    each = "".join(
        f'<Relationship Id="{name}" Type="{R}/{name.rstrip("0123456789")}" Target="{target}"/>'
        for name, target in targets.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}">{each}</Relationships>'


def lines(*texts: str) -> str:
    """A text of a shape, of paragraphs; one that begins with "<" is the content of a:p."""
    each = (f"<a:p>{t if t.startswith('<') else f'<a:r><a:t>{t}</a:t></a:r>'}</a:p>" for t in texts)
    return f"<p:txBody>{''.join(each)}</p:txBody>"


def shape(*texts: str, kind: str = "") -> str:
    """A shape with paragraphs; kind: of placeholder."""
    holder = f'<p:ph type="{kind}"/>' if kind else ""
    return f"<p:sp><p:nvSpPr><p:nvPr>{holder}</p:nvPr></p:nvSpPr>{lines(*texts)}</p:sp>"


def pptx(
    path: Path,
    slides: list[str],
    notes: dict[int, str] | None = None,
    hidden: tuple[int, ...] = (),
    title: str = "",
    more: dict[str, str] | None = None,
) -> Path:
    """Slides of shapes. notes: slide → shapes of its notes. hidden: slides. more: other parts; one named as a part is that instead."""
    spaces = f'xmlns:p="{P}" xmlns:a="{A}" xmlns:r="{R}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    listed = "".join(f'<p:sldId id="{255 + i}" r:id="slide{i}"/>' for i in range(1, len(slides) + 1))
    members = {
        "ppt/presentation.xml": f"<p:presentation {spaces}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relations(
            **{f"slide{i}": f"slides/s{i}.xml" for i in range(1, len(slides) + 1)}
        ),
        "docProps/core.xml": f'<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></c>',
    }
    for i, shapes in enumerate(slides, 1):
        shown = ' show="0"' if i in hidden else ""
        members[f"ppt/slides/s{i}.xml"] = (
            f"<p:sld {spaces}{shown}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
        )
        if i in (notes or {}):
            members[f"ppt/slides/_rels/s{i}.xml.rels"] = relations(notesSlide1="../notes/n.xml")
            members["ppt/notes/n.xml"] = f"<p:notes {spaces}><p:cSld><p:spTree>{notes[i]}</p:spTree></p:cSld></p:notes>"
    return archive(path, members | (more or {}))


def xlsx(
    path: Path, sheets: dict[str, str], hidden: tuple[str, ...] = (), formats: tuple[str, ...] = (), title: str = ""
) -> Path:
    """A workbook: name of a sheet → its rows in XML (see `row`), and after "|" what follows them. formats: codes for styles 1, 2, …."""
    listed, targets, members = "", {}, {}
    for i, (name, content) in enumerate(sheets.items(), 1):
        state = ' state="hidden"' if name in hidden else ""
        listed += f'<sheet name="{name}" sheetId="{i}" r:id="worksheet{i}"{state}/>'
        targets[f"worksheet{i}"] = f"worksheets/sheet{i}.xml"
        rows, _, after = content.partition("|")
        members[f"xl/worksheets/sheet{i}.xml"] = (
            f'<worksheet xmlns="{S}"><sheetData>{rows}</sheetData>{after}</worksheet>'
        )
    codes = "".join(f'<numFmt numFmtId="{164 + i}" formatCode="{escape(code)}"/>' for i, code in enumerate(formats))
    styles = "".join(f'<xf numFmtId="{164 + i}"/>' for i in range(len(formats)))
    return archive(
        path,
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
            "_rels/.rels": relations(officeDocument1="xl/workbook.xml"),
            "xl/workbook.xml": f'<workbook xmlns="{S}" xmlns:r="{R}"><sheets>{listed}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": relations(styles1="styles.xml", **targets),
            "xl/styles.xml": f'<styleSheet xmlns="{S}"><numFmts>{codes}</numFmts><cellXfs><xf numFmtId="0"/>{styles}</cellXfs></styleSheet>',
            "docProps/core.xml": f'<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></c>',
            **members,
        },
    )  # fmt: skip


def row(number: int, *cells: str | float | bool | tuple[float, int] | None) -> str:
    """A row of a sheet; a cell is a text, a number, a truth, a number with its style, or None for none."""
    made = ""
    for column, cell in enumerate(cells):
        at = f'r="{chr(ord("A") + column)}{number}"'
        if isinstance(cell, str):
            made += f'<c {at} t="inlineStr"><is><t xml:space="preserve">{cell}</t></is></c>'
        elif isinstance(cell, tuple):
            made += f'<c {at} s="{cell[1]}"><v>{cell[0]}</v></c>'
        elif isinstance(cell, bool):
            made += f'<c {at} t="b"><v>{int(cell)}</v></c>'
        elif cell is not None:
            made += f"<c {at}><v>{cell}</v></c>"
    return f'<row r="{number}">{made}</row>'


def odf(
    path: Path, kind: str, body: str, automatic: str = "", outline: str = "", title: str = "", locked: bool = False
) -> Path:
    """An OpenDocument. kind: "text", "presentation" or "spreadsheet". automatic: its styles. outline: the rules for headings."""
    key = "<m:encryption-data/>" if locked else ""
    return archive(
        path,
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": f"<office:document-content {_SPACES}><office:automatic-styles>{automatic}</office:automatic-styles>"
            f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>",
            "styles.xml": f"<office:document-styles {_SPACES}><office:styles>{outline}</office:styles></office:document-styles>",
            "meta.xml": f"<office:document-meta {_SPACES}><office:meta><dc:title>{title}</dc:title></office:meta></office:document-meta>",
            "META-INF/manifest.xml": f'<m:manifest {_SPACES}><m:file-entry m:full-path="content.xml">{key}</m:file-entry></m:manifest>',
        },
    )


def page(*shapes: str, style: str = "") -> str:
    """A slide of an OpenDocument presentation."""
    return f'<draw:page draw:style-name="{style}">{"".join(shapes)}</draw:page>'


def frame(content: str, kind: str = "") -> str:
    """A frame on a slide; kind: "title", "notes"."""
    return f'<draw:frame presentation:class="{kind}"><draw:text-box>{content}</draw:text-box></draw:frame>'


def refusal(path) -> str:
    """The one line with which a document is refused."""
    with pytest.raises(UserError) as error:
        open_document(str(path))
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said
    return said
