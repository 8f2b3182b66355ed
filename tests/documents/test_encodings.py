"""Texts of old programs: which encoding they have is told, or they are refused."""

import io
import random
import sys

import pytest

from sharedllm.documents import open_document
from sharedllm.utils.errors import UserError
from sharedllm.utils.text_files import PIECE

WESTERN = [
    "Der Käse schmeckt über alle Maßen gut, und die Straße ist naß.",
    "L’été, les élèves préfèrent les gâteaux à la crème — où est le garçon ?",
    "Año nuevo, vida nueva. São Paulo é uma cidade enorme, não é?",
    "Smörgåsbord på Åland är gott. Ærø og Ålborg ligger i Danmark.",
]
OTHERS = {
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. Zażółć gęślą jaźń.",
    "cp1251": "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "koi8_r": "Съешь же этих мягких французских булок, да выпей чаю.",
    "cp1253": "Η γρήγορη καφέ αλεπού πηδά πάνω από το τεμπέλικο σκυλί.",
    "cp932": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "gb18030": "我能吞下玻璃而不伤身体。中华人民共和国的首都是北京。",
    "cp949": "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요.",
}


@pytest.fixture
def opened(tmp_path):
    def call(raw: bytes, name: str = "notes.txt"):
        (tmp_path / name).write_bytes(raw)
        return open_document(str(tmp_path / name))

    return call


@pytest.mark.parametrize("text", WESTERN)
def test_western_text_is_windows_1252(opened, text):
    for long in (text, f"{text}\n" * 50, "plain line\n" * PIECE + text):
        found = opened(long.encode("cp1252"))
        assert (found.text(), found.read_as) == (long, "windows-1252")


@pytest.mark.parametrize("text", ["café", "naïve café", "it’s “so”", "20 °C, 5 µm", "5 €", "© 2020"])
def test_a_few_letters_are_western(opened, text):
    assert opened(text.encode("cp1252")).text() == text


@pytest.mark.parametrize("code", OTHERS)
def test_other_encodings_are_told_by_their_text(opened, code):
    found = opened((OTHERS[code] + "\n").encode(code) * 3)
    assert found.text() == (OTHERS[code] + "\n") * 3 and found.read_as


@pytest.mark.parametrize("code", ["utf-8-sig", "utf-16", "utf-32"])
def test_what_a_mark_names_is_not_guessed(opened, code):
    for text in ("Grüße, 世界.\n", "é" * PIECE + "\n𝄞"):
        for name in ("a.txt", "a.md", "unknown"):
            found = opened(text.encode(code), name)
            assert (found.text(), found.read_as) == (text, "")
    big_endian = "Grüße".encode("utf-16-be")
    assert opened(b"\xfe\xff" + big_endian).text() == "Grüße"
    with pytest.raises(UserError, match="is not UTF-16: byte 12 is 0x65"):
        opened(b"\xfe\xff" + big_endian + b"e")
    with pytest.raises(UserError, match=r"notes\.txt is empty"):
        opened("".encode("utf-16"))


def test_tables_and_records_in_old_encodings(opened):
    table = opened("Name;Straße\nMüller;Höhe 3\n".encode("cp1252"), "a.csv")
    assert "Straße: Höhe 3" in table.text() and table.read_as == "windows-1252"
    assert "Straße: Höhe 3" in opened("Name;Straße\nMüller;Höhe 3\n".encode("utf-16"), "a.csv").text()
    for name in ("a.json", "a.jsonl"):
        found = opened('{"ort": "Köln", "fluß": "Rhein"}\n'.encode("cp1252"), name)
        assert "Köln" in found.text() and "fluß" in found.text() and found.read_as == "windows-1252"


def test_binary_and_damaged_files_are_refused(opened):
    rng = random.Random(0)
    for _ in range(20):
        raw = bytes(rng.randrange(1, 256) for _ in range(rng.randrange(60, 5000)))
        with pytest.raises(UserError, match="is not UTF-8: byte"):
            opened(b"text " + raw)
    # A few bytes of a text in UTF-8 are broken: its place helps, another encoding would spoil all of it.
    with pytest.raises(UserError, match="is not UTF-8: byte 7 is 0xff"):
        opened("Größe".encode() + b"\xff" + "über Äpfel".encode())
    with pytest.raises(UserError, match="full of zero bytes"):
        opened("Hello world".encode("utf-16-le"))
    with pytest.raises(UserError, match="is not UTF-8"):  # not a character in Windows-1252
        opened(b"F\x81\xe1e")


def test_without_the_extra_the_library_is_named(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "chardet", None)
    assert opened("café".encode("cp1252")).text() == "café"
    with pytest.raises(UserError, match=r'needs the library chardet: pip install "sharedllm\[documents\]"'):
        opened(WESTERN[0].encode("cp1252"))


def test_the_terminal_says_what_was_guessed(run, small_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_bytes(WESTERN[0].encode("cp1252"))
    (tmp_path / "rows.json").write_text('{"a": 1}\n{"a": 2}\n')
    options = ["--model", small_folder]
    err = run("read", "notes.txt", "rows.json", "-o", "a.memory", "--keep-all", *options)[2]
    assert "notes.txt: read as windows-1252\n" in err and "rows.json: read as JSON lines\n" in err
    assert "notes.txt: read as windows-1252\n" in run("ask", "notes.txt", "Käse?", *options)[2]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WESTERN[0].encode("cp1252"))))
    assert "standard input is not UTF-8" in run("read", "-", "-o", "b.memory", *options)[2]


def test_json_lines_by_another_name(opened):
    found = opened(b'{"bird": "owl"}\n\n{"bird": "gull"}\n', "a.json")
    assert found.text() == opened(b'{"bird": "owl"}\n\n{"bird": "gull"}\n', "a.jsonl").text()
    assert found.read_as == "JSON lines"
    with pytest.raises(UserError, match=r"a\.json:3 is not JSON"):
        opened(b'{"a": 1}\n{"a": 2}\n{"a"\n', "a.json")
    with pytest.raises(UserError, match=r"holds more than one JSON document: .* name it \.jsonl"):
        opened(b'{\n"a": 1}\n{\n"a": 2}\n', "a.json")
    assert opened(b'[\n{"a": 1},\n{"a": 2}\n]', "a.json").read_as == ""


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.epub", "a.txt", "a.json", "a.html", "a.csv"])
def test_a_file_without_bytes_is_empty(opened, name):
    with pytest.raises(UserError, match="is empty: there is nothing to read"):
        opened(b"", name)
