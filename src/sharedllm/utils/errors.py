"""Errors that the user can fix, as opposed to faults of the program."""

import difflib
import errno
import os
import re
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A user's mistake: the message names the field, its value and the fix, and the user sees nothing else.

    The command line prints it as one line and exits with code 2; the server returns a client error. Any other exception
    is a fault of the program and keeps its traceback.
    """


def clipped(text: str, most: int = 100) -> str:
    """A text, or as many of its characters and "…" as messages and lists have room for."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown(value: Any, most: int = 100) -> str:
    """A wrong value as messages show it: a text in quotes, anything else as Python writes it, both clipped."""
    if isinstance(value, str):
        return repr(clipped(value, most))
    try:
        return clipped(repr(value), most)
    except RecursionError:  # Python writes lists of lists down to some depth
        return f"a {type(value).__name__} of {len(value)}"


def first_of(names: Iterable[str], most: int = 5, like: str = "") -> str:
    """Some names and "…" for the others, for messages and notes: the first, but before them those that resemble a wrong one.

    Args:
        like: the wrong one.
    """
    names = list(names)
    near = difflib.get_close_matches(like, names, n=most) if like else []
    names = [clipped(name) for name in dict.fromkeys([*near, *names])]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def meant(wrong: str, names: Iterable[str], otherwise: str = "") -> str:
    """The fix of a name that is none of the known ones, for the end of a message: the one that resembles it, if one does.

    Args:
        otherwise: the fix if none does; default: all names.
    """
    names = list(names)
    if near := difflib.get_close_matches(wrong, names, n=1):
        return f"do you mean {near[0]}?"
    return otherwise or f"use one of {', '.join(names)}."


# What to do about a memory of another model, for messages; a command adds its option.
ITS_MODEL = "use the model that made it"


def recovery(folder: str | os.PathLike[str]) -> str:
    """The command that saves the blocks of a memory without its manifest, for messages."""
    return f"`sharedllm memory recover {folder} -o NEW --model MODEL`"


# What to do about what the operating system refuses, by its number.
_FIXES = {
    errno.EACCES: "ask for the right to it (`ls -ld` shows who has it), or name another",
    errno.EPERM: "ask for the right to it, or name another",
    errno.ENAMETOOLONG: "name one that is shorter",
    errno.ENOENT: "check the name",
}
# Why there is no room to write a file, and the fix.
_NO_ROOM = {
    errno.ENOSPC: ("there is no space left on its disk", "free some"),
    errno.EDQUOT: ("your share of its disk is full", "free some of it"),
    errno.EFBIG: ("a file would be larger than the system allows", "raise that limit (`ulimit -f`)"),
}


def refusal(error: Exception, otherwise: str = "") -> str:
    """Why the operating system refuses a file, and the fix, for messages.

    Args:
        otherwise: the fix of what has none here.
    """
    fix = _FIXES.get(getattr(error, "errno", None) or 0, otherwise)
    return f"{getattr(error, 'strerror', None) or error}" + (f"; {fix}" if fix else "")


def number_of(error: Exception) -> int | None:
    """The operating system's number of an error; safetensors has it in words only."""
    said = re.search(r"\(os error (\d+)\)", str(error))
    return getattr(error, "errno", None) or (int(said[1]) if said else None)


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full."""
    return number_of(error) in (errno.ENOSPC, errno.EDQUOT)


def no_room(target: object, error: Exception, then: str = "run the same command again") -> str | None:
    """What to say where there was no room to write a file or folder, `target`; None for other errors. then: what goes on."""
    why, fix = _NO_ROOM.get(number_of(error) or 0, ("", ""))
    return f"{clipped(str(target))} can't be written, because {why}: {fix}, then {then}." if why else None


# What huggingface_hub says about a field of a configuration: one of some texts, of some types, or of one type.
_OF_WRONG_TYPE = re.compile(
    r"Field '(?P<field>\w+)' (?:expected one of \((?P<known>.*?)\), got (?P<text>.*)"
    r"|with value (?P<value>.*?) doesn't match any type in \((?P<types>.*?)\)\. Errors: .*"
    r"|expected (?P<type>[\w.]+), got \w+ \(value: (?P<single>.*)\))",
    re.DOTALL,
)


def of_wrong_type(error: Exception) -> UserError:
    """What huggingface_hub raises about a field of a configuration, as the user's mistake."""
    said = str(error).partition("\n")[2].strip().removeprefix("TypeError: ")
    if (found := _OF_WRONG_TYPE.fullmatch(said)) is None:
        return UserError(said or str(error))
    if found["known"]:
        known = re.findall(r"'(.*?)'", found["known"])
        return UserError(f"{found['field']}={shown(found['text'])} is not known: {meant(found['text'], known)}")
    types = re.sub(r"<class '([\w.]+)'>|typing\.", r"\1", found["types"] or found["type"]).replace("NoneType", "None")
    *others, last = re.split(r", (?![^\[]*\])", types)
    fitting = f"{', '.join(others)} or {last}" if others else last
    return UserError(
        f"{found['field']}={clipped(found['value'] or found['single'])} is of a wrong type: give {fitting}."
    )


def named_type(value: object) -> str:
    """The name of a value's type with its article, for messages: "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def as_path(name: str, value: Any) -> Path:
    """A path, of which Python's own error would not say for which argument it was meant.

    Raises:
        UserError: it is no path, or an empty one, which Python takes for the current folder.
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name}={value!r} is {named_type(value)}: pass a path, as a text or a Path.")
    if not str(value):
        raise UserError(f"{name}={value!r} is empty: name a file or a folder, '.' for the current one.")
    return Path(value)


def at_least_one(name: str, value: Any, what: str = "") -> int:
    """Check a number of tokens or the like: a whole number of at least 1, limited to 63 bits, which is as good as unlimited.

    Args:
        what: the reason in the message for refusing numbers below 1.

    Raises:
        UserError: it is not a whole number, or below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"{name}={value!r} is not a whole number: give one of at least 1.")
    if value < 1:
        raise UserError(f"{name}={value} {what or 'asks for nothing'}: give at least 1.")
    return min(int(value), 2**62)
