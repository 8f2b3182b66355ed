"""Spreadsheets: rows with the names of their columns, values as a reader writes them, and files that can't be read."""

import sys
import zipfile
from datetime import date, datetime, time, timedelta

import pytest
from made_documents import archive, placed
from made_office import odf, refusal, row, xlsx

from sharedllm.documents import open_document
from sharedllm.documents.cells import written
from sharedllm.documents.places import span
from sharedllm.documents.sheet import texts_of

FORMATS = ("yyyy-mm-dd", "0.0%", '0" of 100%"', "[h]:mm", "yyyy-mm-dd hh:mm:ss")


def _text(tmp_path, *rows: str, after: str = "") -> list[str]:
    """The lines of a sheet without its name."""
    path = xlsx(tmp_path / "a.xlsx", {"S": "".join(rows) + f"|{after}"}, formats=FORMATS)
    return open_document(str(path)).text().removeprefix("S\n\n").removesuffix("\n\n").split("\n")


def test_sheets_by_row(tmp_path):
    many = "".join(row(i, f"bird {i}", "word " * 30) for i in range(2, 9))
    sheets = {
        "Prices &amp; more": row(1, "name", "text") + many,
        "Nothing": "",
        "Old": row(3, "alone") + row(7, None, "far"),
    }
    opened = open_document(str(xlsx(tmp_path / "a.xlsx", sheets, hidden=("Old",), title="A book")))
    assert (opened.kind, opened.origin.title, opened.origin.unit) == ("spreadsheet", "A book", "")
    found = placed(opened)
    assert [place for place, _ in found] == [
        'sheet "Prices & more", rows 1–4', 'sheet "Prices & more", rows 5–7', 'sheet "Prices & more", row 8', 'hidden sheet "Old", rows 3–7',
    ]  # fmt: skip
    assert found[0][1].startswith("Prices & more\n\nname; text\nname: bird 2; text: word word")
    assert found[2][1].endswith("word\n\n") and found[3][1] == "Old\n\nalone\nfar\n\n"
    assert span(found[0][0], found[1][0]) == 'sheet "Prices & more", rows 1–7'


def test_values_of_cells(tmp_path):
    names = row(1, "n", "day", "share", "done")
    first = row(2, 3, (45296, 1), (0.125, 2), True)
    second = row(3, 0.30000000000000004, (45296.395844907407, 5), (0.07, 2), False)
    third = row(4, "two\n lines", None, (30, 3), (1.25, 4))
    assert _text(tmp_path, names, first, second, third) == [
        "n; day; share; done", "n: 3; day: 2024-01-05; share: 12.5%; done: TRUE",
        "n: 0.3; day: 2024-01-05 09:30:01; share: 7%; done: FALSE", "n: two lines; share: 30; done: 30:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"), (-0.5, "-0.5"), (1e-9, "1e-09"), (12345678901.0, "12345678901"), (7, "7"), (None, ""), (True, "TRUE"),
        (date(2024, 2, 29), "2024-02-29"), (datetime(2024, 2, 29, 9, 5), "2024-02-29 09:05"), (time(9, 5), "09:05"),
        (datetime(2024, 2, 28, 23, 59, 59, 999_900), "2024-02-29 00:00"), (datetime.max, "9999-12-31 23:59:59"),
        (time(9, 5, 7), "09:05:07"), (timedelta(hours=30, minutes=5, seconds=9), "30:05:09"), (timedelta(hours=-1), "-01:00"),
    ],
)  # fmt: skip
def test_a_value_as_text(value, text):
    assert written(value) == text


def test_shares_are_exact():
    assert [written(value, percent=True) for value in (0.07, 0.29, 1.0, 1 / 3, -0.005)] == [
        "7%",
        "29%",
        "100%",
        "33.33333333333%",
        "-0.5%",
    ]


def test_a_formula_has_the_value_that_was_computed(tmp_path):
    formula = '<row r="2"><c r="A2" t="str"><f>"a"&amp;"b"</f><v>ab</v></c><c r="B2"><f>1+2</f><v>3</v></c></row>'
    assert _text(tmp_path, row(1, "x", "y"), formula) == ["x; y", "x: ab; y: 3"]


def test_formulas_without_a_saved_value_are_told(tmp_path):
    def cells(number: int, *inner: str, kind: str = "") -> str:
        made = "".join(f'<c r="{"ABCD"[i]}{number}"{kind}>{content}</c>' for i, content in enumerate(inner))
        return f'<row r="{number}">{made}</row>'

    without = cells(2, "<f>1+2</f><v/>", "<f>A2</f><v></v>", '<f t="shared" si="0"/>', "<f>A2&gt;1</f>")
    saved = cells(3, "<f>1+2</f><v>3</v>", "<v>4</v>") + cells(4, "<f>A9</f><v></v>", kind=' t="str"')
    opened = open_document(str(xlsx(tmp_path / "a.xlsx", {"S": row(1, "x", "y") + without, "T": saved})))
    assert opened.text() == "S\n\nx; y\n\nT\n\n3; 4\n\n"
    # "a.xlsx: read as " stands before it.
    assert opened.read_as == "if 4 formulas without a saved value were empty: open and save it in Excel or LibreOffice"
    one = xlsx(tmp_path / "b.xlsx", {"S": row(1, "x") + cells(2, "<f>1+2</f>")})
    assert open_document(str(one)).read_as.startswith("if 1 formula without a saved value were empty")
    assert open_document(str(xlsx(tmp_path / "c.xlsx", {"S": saved}))).read_as == ""
    said = refusal(xlsx(tmp_path / "d.xlsx", {"S": without}))
    assert "has no values: its 4 formulas have none saved; open and save it in Excel or LibreOffice." in said


def test_errors_are_read_as_they_are_shown(tmp_path):
    errors = '<row r="2"><c r="A2" t="e"><v>#N/A</v></c><c r="B2"><v>3</v></c></row><row r="3"><c t="e" r="B3"><f>1/0</f><v>#DIV/0!</v></c></row>'
    assert _text(tmp_path, row(1, "x", "y"), errors) == ["x; y", "x: #N/A; y: 3", "y: #DIV/0!"]


def test_merged_cells_are_those_of_each_row(tmp_path):
    after = '<mergeCells><mergeCell ref="A2:A4"/><mergeCell ref="B2:C2"/></mergeCells>'
    rows = (
        row(1, "land", "town", "size"),
        row(2, "Peru", "Lima"),
        row(3, None, "Cusco", 4),
        row(4, None, "Puno", 1),
        row(5, None, "Rome", 3),
    )
    assert _text(tmp_path, *rows, after=after) == [
        "land; town; size", "land: Peru; town: Lima", "land: Peru; town: Cusco; size: 4", "land: Peru; town: Puno; size: 1", "town: Rome; size: 3",
    ]  # fmt: skip


def test_names_of_columns_below_a_title_and_in_two_rows(tmp_path):
    title = (row(1, "Sales of the year"), row(2, "as of", "May"))
    names = row(4, "land", "half", "old\nprice", "new", "note")
    data = row(5, "Peru", 1, 2, 3)
    assert _text(tmp_path, *title, names, data) == [
        "Sales of the year", "as of; May", "land; half; old price; new; note", "land: Peru; half: 1; old price: 2; new: 3",
    ]  # fmt: skip
    after = '<mergeCells><mergeCell ref="A1:A2"/><mergeCell ref="B1:C1"/></mergeCells>'
    rows = (row(1, "land", "2023", None, "note"), row(2, None, "first", "last"), row(3, "Peru", 1, 2, "new"))
    assert _text(tmp_path, *rows, after=after)[2] == "land: Peru; 2023 first: 1; 2023 last: 2; note: new"
    assert _text(tmp_path, row(1, "Anna", 31), row(2, "Bob", 25)) == ["Anna; 31", "Bob; 25"]


def test_two_tables_in_a_sheet(tmp_path):
    rows = (
        row(1, "Name", "Age"),
        row(2, "Ann", 31),
        row(4, "City", "Mayor"),
        row(5, "Ulm", "Max"),
        row(6, "Bonn", "Eva"),
    )
    assert _text(tmp_path, *rows) == ["Name; Age", "Name: Ann; Age: 31", "City; Mayor", "City: Ulm; Mayor: Max", "City: Bonn; Mayor: Eva"]  # fmt: skip
    # Names in two rows, also of the second table.
    second = row(4, "land", "2023"), row(5, None, "first", "last"), row(6, "Peru", 1, 2), row(7, "Chad", 3, 4)
    after = '<mergeCells><mergeCell ref="B4:C4"/></mergeCells>'
    assert _text(tmp_path, *rows[:2], *second, after=after)[-1] == "land: Chad; 2023 first: 3; 2023 last: 4"


# Rows are parted by "/"; a blank one parts blocks.
TABLES = {
    "Name,Age/Ann,31//Bob,25": "Name: Bob; Age: 25",
    "Name,Age//Ann,31/Bob,25": "Name: Bob; Age: 25",
    "Name,Age/Ann,31//Bob,unknown/Cid,40": "Name: Cid; Age: 40",
    "Name,Age/Ann,31//Team B/Bob,25//Team C//Cid,30": "Name: Cid; Age: 30",
    "Name,City,Age/Ann,Ulm,31//Bob,Bonn,/Cid,Ulm,40": "Name: Cid; City: Ulm; Age: 40",
    "Name,Born,Died/A,1900,1950//B,1910,1970/C,1911,1980": "Name: C; Born: 1911; Died: 1980",
    "Name,City/Ann,Ulm//Bob,Ulm/Cid,Oslo": "Name: Cid; City: Oslo",
    "Item,Sum/A,5//Total,11": "Item: Total; Sum: 11",
    "Item,Sum/A,5//,11": "Sum: 11",
    "Item,Sum/A,5//In euros": "In euros",
    "Company:,ACME/Founded:,1947/CEO:,Jane": "CEO:; Jane",
    "Company:,ACME/CEO:,Jane//City,Size/Ulm,5": "City: Ulm; Size: 5",
    # Another table.
    "Name,Age/Ann,31//Cities/City,Mayor/Ulm,Max": "City: Ulm; Mayor: Max",
    "Name,Day/Ann,2024-01-05//City,Mayor/Ulm,Max": "City: Ulm; Mayor: Max",
    "Name,City/Ann,Ulm//City,Size/Bonn,5": "City: Bonn; Size: 5",
    "Name,City/Ann,Ulm//Name,Job/Bob,cook": "Name: Bob; Job: cook",
    "Name,Age/Ann,31//,,,City,Mayor/,,,Ulm,Max": "City: Ulm; Mayor: Max",
    "Land,Size/Peru,1//Land,2023,2024/Peru,3,4": "Land: Peru; 2023: 3; 2024: 4",
    "Anna,31/Bob,25//City,Mayor/Ulm,Max": "City: Ulm; Mayor: Max",
    "as of,May//City,Size/Ulm,5": "City: Ulm; Size: 5",
    # One that has no names, or either: a wrong name is worse than none.
    "City,Mayor/Ulm,Max//Ann,31/Bob,25": "Bob; 25",
    "City,Mayor/Ulm,Max//Name,Job/Bob,cook": "Bob; cook",
    "City,Mayor/Ulm,Max//Bonn,Eva//Rome,Ida": "Rome; Ida",
    "Name,Age/Ann,31//City,Mayor/Ulm,Max//Bob,25": "Bob; 25",
}


@pytest.mark.parametrize("table", TABLES)
def test_which_table_a_row_below_a_blank_one_is_of(table):
    rows = [(number, text.split(",")) for number, text in enumerate(table.split("/")) if text]
    found = list(texts_of(iter(rows), []))
    assert [number for number, _ in found] == [number + 1 for number, _ in rows]
    assert found[-1][1] == TABLES[table] + "\n"


def test_a_long_table_below_a_blank_row():
    rows = [(0, ["Name", "Age"]), (1, ["Ann", "31"]), (3, ["City", "Mayor"])] + [
        (i, [f"c{i}", "m"]) for i in range(4, 90)
    ]
    texts = [text for _, text in texts_of(iter(rows), [])]
    assert texts[1:3] == ["Name: Ann; Age: 31\n", "City; Mayor\n"]
    assert texts[3:] == [f"City: c{i}; Mayor: m\n" for i in range(4, 90)]
    listed = rows[:2] + [(i, [f"c{i}"]) for i in range(4, 90)]
    assert list(texts_of(iter(listed), []))[-1] == (90, "c89\n")


def test_opendocument_sheets(tmp_path):
    def cell(kind: str, value: str, text: str) -> str:
        named = {"date": "date-value", "string": "string-value"}.get(kind, "value")
        return f'<table:table-cell office:value-type="{kind}" office:{named}="{value}"><text:p>{text}</text:p></table:table-cell>'

    rows = [
        [cell("string", "day", "day"), cell("string", "n", "n")],
        [cell("date", "2024-01-05", "5.1."), cell("float", "3", "3,00")],
    ]
    made = "".join(f"<table:table-row>{''.join(cells)}</table:table-row>" for cells in rows)
    empty = '<table:table-row table:number-rows-repeated="1048574"><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    path = odf(
        tmp_path / "a.ods", "spreadsheet", f'<table:table table:name="One">{made}{empty}</table:table>', title="A book"
    )
    opened = open_document(str(path))
    assert (opened.origin.title, placed(opened)) == (
        "A book",
        [('sheet "One", rows 1–2', "One\n\nday; n\nday: 2024-01-05; n: 3\n\n")],
    )


def test_shares_and_errors_of_opendocument_sheets(tmp_path):
    def cell(about: str, text: str, times: int = 1) -> str:
        return f'<table:table-cell table:number-columns-repeated="{times}" {about}><text:p>{text}</text:p></table:table-cell>'

    share = 'office:value-type="percentage" office:value="0.125"'
    error = 'office:value-type="string" office:string-value="" xmlns:c="c" c:value-type="error"'
    rows = [
        (1, *(cell('office:value-type="string"', name) for name in ("what", "from", "to", "sum"))),
        (2, cell('office:value-type="string"', "rate"), cell(share, "12,50%", 2), cell(error, "#DIV/0!")),
        (1, cell('office:value-type="string"', "plain"), cell('office:value-type="float" office:value="0.5"', "0,5", 3)),
        (1, cell('office:value-type="string"', "last"), '<table:covered-table-cell/>', cell(share, "12,50%")),
    ]  # fmt: skip
    made = "".join(
        f'<table:table-row table:number-rows-repeated="{times}">{"".join(cells)}</table:table-row>'
        for times, *cells in rows
    )
    tables = f'<table:table table:name="Empty"/><table:table table:name="One">{made}</table:table>'
    path = odf(tmp_path / "a.ods", "spreadsheet", tables)
    assert open_document(str(path)).text().split("\n")[2:-2] == [
        "what; from; to; sum",
        *["what: rate; from: 12.5%; to: 12.5%; sum: #DIV/0!"] * 2,
        "what: plain; from: 0.5; to: 0.5; sum: 0.5",
        "what: last; to: 12.5%",
    ]
    many = f'<table:table table:name="Many"><table:table-row table:number-rows-repeated="1048576">{cell(share, "1%", 16384)}</table:table-row></table:table>'
    assert "cells in a sheet, 'Many': save its sheets as .csv" in refusal(odf(path, "spreadsheet", many))


def test_a_workbook_is_known_by_what_is_in_it(tmp_path):
    made = xlsx(tmp_path / "x.xlsx", {"S": row(1, "text")}).read_bytes()
    for name in ("report.bin", "report", "report.xls", "report.csv"):
        (tmp_path / name).write_bytes(made)
        assert open_document(str(tmp_path / name)).text() == "S\n\ntext\n\n"


def test_workbooks_that_can_not_be_read(tmp_path):
    made = xlsx(tmp_path / "a.xlsx", {"S": row(1, "text")})
    (tmp_path / "locked.xlsx").write_bytes(
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le")
    )
    assert "is locked: it needs a password; save it without one" in refusal(tmp_path / "locked.xlsx")
    assert "is locked: it needs a password" in refusal(odf(tmp_path / "locked.ods", "spreadsheet", "", locked=True))
    (tmp_path / "cut.xlsx").write_bytes(made.read_bytes()[:700])
    assert "is damaged" in refusal(tmp_path / "cut.xlsx")
    (tmp_path / "page.xlsx").write_text("<html><table><tr><td>1</td></tr></table></html>")
    assert "is damaged, or no spreadsheet" in refusal(tmp_path / "page.xlsx")
    assert "is a ZIP file without a workbook" in refusal(archive(tmp_path / "other.xlsx", {"a.txt": "text"}))
    assert "is empty: there is nothing to read" in refusal(xlsx(tmp_path / "empty.xlsx", {"S": "", "T": row(1)}))
    with zipfile.ZipFile(xlsx(tmp_path / "b.xlsx", {"S": row(1, "text"), "Sales": row(1, "text")})) as members:
        left = {name: members.read(name).decode() for name in members.namelist() if not name.endswith("sheet2.xml")}
    assert "is damaged: its sheet 'Sales' is missing; get or save it again." in refusal(
        archive(tmp_path / "b.xlsx", left)
    )
    assert "save it as .xlsx" in refusal(archive(tmp_path / "a.xlsb", {"xl/workbook.bin": "x"}))


def test_cells_too_far_apart_arerefusal(tmp_path):
    """The library would make room for all between them, and end the process."""
    far = '<row r="4000"><c r="XFD4000"><v>1</v></c></row>'
    said = refusal(xlsx(tmp_path / "a.xlsx", {"Far": row(1, 1) + far}))
    assert "has a sheet of 4,000 rows and 16,384 columns, 'Far'" in said and "delete what lies far" in said
    assert open_document(str(xlsx(tmp_path / "b.xlsx", {"Far": far}))).origin.places == ((0, 'sheet "Far", row 4000'),)
    repeated = '<table:table table:name="S"><table:table-row table:number-rows-repeated="9000"><table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="9000"/></table:table-row></table:table>'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedllm.documents.spreadsheet.MOST_CELLS", 999)
        small = repeated.replace("9000", "40")
        assert "has more than 999 cells in a sheet" in refusal(odf(tmp_path / "a.ods", "spreadsheet", small))


def test_a_part_that_unpacks_without_end_isrefusal(tmp_path, monkeypatch):
    monkeypatch.setattr("sharedllm.documents.package.MOST", 10_000)
    path = tmp_path / "a.xlsx"
    xlsx(path, {"S": row(1, "a") + " " * 20_000})
    said = refusal(path)
    assert "has a part of 20," in said and said.endswith("can't be read; save its sheets as .csv.")
    sheets = odf(tmp_path / "a.ods", "spreadsheet", " " * 20_000)
    assert refusal(sheets).endswith("can't be read; save its sheets as .csv.")
    assert refusal(odf(tmp_path / "a.odt", "text", " " * 20_000)).endswith("can't be read; split it.")
    raw = path.read_bytes()
    size = next(m.file_size for m in zipfile.ZipFile(path).infolist() if m.filename.endswith("sheet1.xml"))
    path.write_bytes(raw.replace(size.to_bytes(4, "little"), (900).to_bytes(4, "little")))
    assert "is damaged" in refusal(path)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = xlsx(tmp_path / "a.xlsx", {"S": row(1, "text")})
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    assert 'needs the library python_calamine: pip install "sharedllm[documents]"' in refusal(path)
