"""Opens a document in a process of its own, which can be ended at any time and whose crash harms nobody else.

    python -m sharedllm.documents.apart PATH

writes the text and its origin, or what is wrong with the document, as one JSON object to standard output.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ..utils.errors import UserError
from .opening import open_document
from .places import Origin

# Without -P the folder of the server comes first where modules are looked for, and a file json.py there would be run.
COMMAND = [sys.executable, "-P", "-m", "sharedllm.documents.apart"]


@dataclass(frozen=True)
class Text:
    """The text of a document; read_as: what was guessed to read it (see `extract.Extract`)."""

    text: str
    origin: Origin
    read_as: str = ""


class Apart:
    """A document that another process opens. Every instance has to be ended with `stop`."""

    def __init__(self, path: Path):
        self.path = path
        # Finds the package as this process does, also where it is not installed.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1"}
        self._process = subprocess.Popen(
            [*COMMAND, str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def result(self) -> Text:
        """Wait for the text.

        Raises:
            UserError: as `open_document`; or reading the document ends the process.
        """
        out, err = self._process.communicate()
        code = self._process.returncode
        if code == 1:
            raise RuntimeError(f"reading {self.path.suffix or 'a document'} failed:\n{err.decode(errors='replace')}")
        if code:
            raise UserError(f"{self.path} is damaged: what reads it ended with code {code}; get or save it again.")
        said = json.loads(out)
        if "error" in said:
            raise UserError(said["error"])
        places = tuple((character, place) for character, place in said["origin"].pop("places"))
        return Text(said["text"], Origin(**said["origin"], places=places), said["read_as"])

    def stop(self) -> None:
        """End the process, whatever it does; `result` then returns at once."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    try:
        opened = open_document(sys.argv[1])
        said = {"text": opened.text(), "origin": asdict(opened.origin), "read_as": opened.read_as}
    except UserError as error:
        said = {"error": str(error)}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
