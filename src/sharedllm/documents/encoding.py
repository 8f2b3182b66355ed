"""Which encoding a text file has that is not Unicode, as old programs wrote them.

chardet is chosen over charset-normalizer: of 76 texts of 12 to 1,800 characters in thirteen encodings it reads all
rightly, charset-normalizer 45 (it takes French and Portuguese in Windows-1252 for Windows-1250).
"""

import codecs
import re
from pathlib import Path

from ..utils.text_files import marked
from .extract import library

# With fewer bytes outside ASCII nothing can be told from them: they are taken as Western, as browsers do.
FEW = 4
WESTERN = "windows-1252"
# So many bytes are looked at.
SAMPLE = 2**16
_STEP = 2**20
# No text has these; tabs, line ends, page breaks, escape sequences and the end mark of DOS are possible.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]")
# What its writers mean by it: the same with some more characters.
_LARGER = {"shift_jis": "cp932", "iso-8859-1": WESTERN}


def legacy_encoding(path: Path) -> str:
    """The encoding of a text file that is not Unicode, such as "windows-1252"; "" if it is, if it is binary or damaged, or
    can be read only once.

    Raises:
        UserError: the library that tells encodings is not installed.
    """
    if not path.is_file() or _is_unicode(path):
        return ""
    sample = _sample(path)
    if not sample or _is_damaged_utf8(sample):
        return ""
    encoding = WESTERN
    if sum(byte > 127 for byte in sample) >= FEW:
        found = library("chardet", path).detect(sample)["encoding"]
        encoding = (found or WESTERN).lower()
    encoding = _LARGER.get(encoding, encoding)
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except (UnicodeDecodeError, LookupError):
        return ""
    return encoding


def _is_unicode(path: Path) -> bool:
    with path.open("rb") as file:
        raw, decoder = file.read(_STEP), codecs.getincrementaldecoder("utf-8")()
        if marked(raw):
            return True
        try:
            while raw:
                decoder.decode(raw)
                raw = file.read(_STEP)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _sample(path: Path) -> bytes:
    """The first lines that are not all ASCII, because others would speak for English; b"" if the file is binary."""
    found = b""
    with path.open("rb") as file:
        while len(found) < SAMPLE and (line := file.readline(SAMPLE)):
            if _CONTROL.search(line):
                return b""
            if not line.isascii():
                found += line
    return found


def _is_damaged_utf8(sample: bytes) -> bool:
    """Whether most characters outside ASCII are whole in UTF-8, which hardly happens by chance."""
    text = sample.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - bad >= bad
