"""Small documents of every kind, made in code."""

import zipfile
from pathlib import Path

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(path: Path, pages: list[str], title: str = "", locked: bool = False) -> Path:
    """A PDF with one page for each text; an empty text gives a page without any, as a scan has."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        lines = "".join(f"({line.translate({40: '[', 41: ']'})}) Tj T* " for line in text.splitlines())
        content = f"BT /F1 12 Tf 14 TL 72 720 Td {lines}ET" if text else "0 0 100 100 re f"
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< /Title ({title}) >>")
    trailer = f"/Root 1 0 R /Info {len(objects)} 0 R /ID [<{'00' * 16}> <{'00' * 16}>]"
    if locked:
        # No password fits these: they are not what the handler computes from any.
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >>")
        trailer += f" /Encrypt {len(objects)} 0 R"
    raw, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(raw))
        raw += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    start = len(raw)
    raw += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    raw += f"trailer\n<< /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    path.write_bytes(raw)
    return path


def docx(path: Path, blocks: list[tuple[str, str]], title: str = "", footnote: str = "", rules: str = "") -> Path:
    """A Word document of (style, text) blocks: "Heading1", "" for a paragraph, "2:0" for one of list 2 at level 0, "table" for cells "a|b"
    in lines. rules: of its lists, the content of numbering.xml."""
    body = ""
    for style, text in blocks:
        if style == "table":
            rows = "".join(
                "<w:tr>" + "".join(f"<w:tc>{_paragraph('', cell)}</w:tc>" for cell in line.split("|")) + "</w:tr>"
                for line in text.splitlines()
            )
            body += f"<w:tbl>{rows}</w:tbl>"
        else:
            body += _paragraph(style, text)
    note = '<w:p><w:r><w:footnoteReference w:id="2"/></w:r></w:p>' if footnote else ""
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    members = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{relation}/officeDocument"'
        ' Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{W}"><w:body>{body}{note}</w:body></w:document>',
        "word/styles.xml": f'<w:styles xmlns:w="{W}">'
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/>'
            f'<w:pPr><w:numPr><w:ilvl w:val="{n - 1}"/><w:numId w:val="9"/></w:numPr></w:pPr></w:style>'
            for n in (1, 2)
        )
        + '<w:style w:type="numbering" w:styleId="Legal"><w:pPr><w:numPr><w:numId w:val="4"/></w:numPr></w:pPr></w:style></w:styles>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r2" Type="{relation}/styles" Target="styles.xml"/>'
        f'<Relationship Id="r4" Type="{relation}/numbering" Target="numbering.xml"/>'
        f'<Relationship Id="r3" Type="{relation}/footnotes" Target="footnotes.xml"/></Relationships>',
        "word/footnotes.xml": f'<w:footnotes xmlns:w="{W}"><w:footnote w:id="2">{_paragraph("", footnote)}</w:footnote></w:footnotes>',
        "word/numbering.xml": f'<w:numbering xmlns:w="{W}">{rules}</w:numbering>',
        "docProps/core.xml": f'<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></c>',
    }
    return archive(path, members)


def epub(path: Path, chapters: dict[str, str], title: str = "") -> Path:
    """An e-book of chapters: name in its contents → markup of its body."""
    xhtml = "http://www.w3.org/1999/xhtml"
    items = "".join(
        f'<item id="c{i}" href="text/c%20{i}.xhtml" media-type="application/xhtml+xml"/>' for i in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    links = "".join(f'<li><a href="text/c%20{i}.xhtml#top">{name}</a></li>' for i, name in enumerate(chapters))
    members = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        "OPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>{title}</dc:title></metadata>"
        f'<manifest>{items}<item id="n" href="nav.xhtml" properties="nav"/></manifest><spine>{spine}</spine></package>',
        "OPS/nav.xhtml": f'<html xmlns="{xhtml}"><body><nav><ol>{links}</ol></nav></body></html>',
    }
    for i, markup in enumerate(chapters.values()):
        members[f"OPS/text/c {i}.xhtml"] = f'<html xmlns="{xhtml}"><body>{markup}</body></html>'
    return archive(path, members)


def archive(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def _paragraph(style: str, text: str) -> str:
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    if ":" in style:
        number, level = style.split(":")
        styled = f'<w:pPr><w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr></w:pPr>'
    return f'<w:p>{styled}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def placed(opened) -> list[tuple[str, str]]:
    """(place, text from there to the next place)."""
    text, places = opened.text(), opened.origin.places
    ends = [*(begin for begin, _ in places[1:]), len(text)]
    return [(place, text[begin:end]) for (begin, place), end in zip(places, ends, strict=True)]
