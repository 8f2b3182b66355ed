"""Names that clients give: of documents and of memories."""

import re

from ..utils.errors import clipped, shown
from ..utils.text_files import harmless, is_text
from .errors import invalid

# Most characters of a document's name, and most bytes of a memory's, whose folder is named after it.
MOST_CHARACTERS, MOST_BYTES = 512, 200
# Characters that no file's name may have on Windows.
_FORBIDDEN = set('<>:"/\\|?*')
# Windows takes these, with any suffix, for devices.
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def check_document(name: str, field: str = "document") -> None:
    """Refuse what a list, a terminal or an address can't show, however the document is sent. Names are paths: ../a.txt is one.

    Args:
        field: in which the client sent it.

    Raises:
        ServingError: no document can have that name.
    """
    if "\ufffd" in name:  # what servers make of bytes of an address that are not UTF-8
        fix = "send it in UTF-8, escaped with %"
    elif not name.strip() or len(name) > MOST_CHARACTERS:
        fix = f"use 1 to {MOST_CHARACTERS} characters"
    elif not _shows(name):
        fix = "leave out what can't be shown, such as line ends and characters that turn the order of letters"
    elif re.split(r"[/\\]", name)[-1] in ("", ".", ".."):
        fix = "name a file, not a folder"
    else:
        return
    raise invalid(field, f"{field}={_shown(name)} is no name of a document: {fix}.")


def check_memory(name: str) -> None:
    """
    Raises:
        ServingError: no memory can have that name, because its folder could not on some system.
    """
    if not name.strip() or len(name.encode("utf-8", "replace")) > MOST_BYTES:
        fix = f"use 1 to {MOST_BYTES} bytes"
    elif not _shows(name) or "\ufffd" in name:
        fix = "leave out what can't be shown"
    elif found := sorted(_FORBIDDEN & set(name)):
        fix = f"leave out {' '.join(found)}"
    elif name.strip(" .") != name:
        fix = "begin and end it with neither a dot nor a space"
    elif name.lower().endswith(".memory"):
        fix = "leave out .memory, which is added to it"
    elif _DEVICES.fullmatch(name):
        fix = "it is a device on Windows; choose another one"
    else:
        return
    raise invalid("name", f"name={_shown(name)} is no name of a memory: {fix}.")


def _shows(name: str) -> bool:
    return is_text(name) and harmless(name) == name


def _shown(name: str) -> str:
    return shown(name) if _shows(name) else clipped(ascii(name))
