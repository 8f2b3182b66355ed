"""Documents as people have them: a path to text, with the places in it.

`opening.open_document` reads one file, `folder.find` lists the files of folders and globs. The kinds of files are the
registry `kinds.KINDS`.
"""

from .extract import Extract, Kind, Part
from .folder import Found, find
from .kinds import KINDS
from .opening import Opened, open_document

__all__ = ["KINDS", "Extract", "Found", "Kind", "Opened", "Part", "find", "open_document"]
