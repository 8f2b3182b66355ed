"""From an uploaded file to its text and the places in it, by `documents`."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..documents.apart import Apart, Text
from ..utils.errors import UserError
from .editing import full_disk_named
from .errors import ServingError, invalid

logger = logging.getLogger("sharedllm.serving")

# So many files are extracted at once; others wait, so that many uploads leave the model its processors.
_AT_ONCE = 2


class Extractions:
    """Extracts the texts of uploaded files, each in a process of its own, which ends with the wait for it."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def text(self, name: str, data: bytes, seconds: float) -> Text:
        """
        Args:
            name: of the document, whose suffix tells its kind where its bytes do not. seconds: longest time, including waiting.

        Raises:
            ServingError: the file is empty, damaged, locked, of a kind that can't be read, or takes too long; or the disk is
                full. Nothing of it is left over, nor if the caller is cancelled.
        """
        if not data.strip():
            raise invalid("document", f"{name} is empty: there is nothing to read.")
        try:
            async with asyncio.timeout(seconds), self._turns, _file(name, data) as path:
                apart = Apart(path)
                waiting = asyncio.create_task(asyncio.to_thread(apart.result))
                try:
                    return await asyncio.shield(waiting)
                except UserError as error:
                    raise ServingError(415, str(error).replace(str(path), name), "document") from None
                except RuntimeError:
                    logger.exception("a document could not be opened")
                    raise ServingError(500, "the server failed: its log says how; try again.") from None
                finally:
                    apart.stop()
                    await asyncio.wait([waiting])
                    waiting.exception()  # that it was ended is no news
        except TimeoutError:
            message = f"{name} takes longer than {seconds:g} s to open: split it, or raise the server's `--timeout`."
            raise ServingError(504, message, "document") from None


@asynccontextmanager
async def _file(name: str, data: bytes) -> AsyncIterator[Path]:
    """A temporary file with these bytes. Of the name only the suffix is used, because it may be no name of a file here."""
    suffix = Path(name).suffix
    suffix = suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= 20 else ""
    with full_disk_named("temporary files"), tempfile.TemporaryDirectory(prefix="sharedllm-") as folder:
        path = Path(folder) / f"document{suffix}"
        await asyncio.to_thread(path.write_bytes, data)
        yield path
