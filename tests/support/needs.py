"""Libraries that some tests need."""

from importlib.util import find_spec

import pytest


def needs(*libraries: str) -> pytest.MarkDecorator:
    """Skips tests where a library is not installed, without importing it, as `pytest.importorskip` does: in a file's `pytestmark`
    that would take seconds in every process, whichever tests it runs."""
    missing = [library for library in libraries if find_spec(library) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
