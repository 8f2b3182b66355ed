"""The page at /: plain files of this package. Nothing is loaded from elsewhere, and nothing in it is built."""

import re
from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import Response

from ..utils.errors import clipped, first_of
from .errors import ServingError

# Scripts and styles come from this server alone, nothing is inline, and no other site may frame the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PAGE = (
    "page.css",
    "main.js",
    "api.js",
    "elements.js",
    "conversation.js",
    "documents.js",
    "making.js",
    "panel.js",
    "frame.js",
)
# What the page takes from `sharedllm explain`, by the name under which it is served.
_EXPLAIN = {"explain.css": "page.css", "explain.js": "page.js", "names.js": "names.js"}


def is_public(method: str, path: str) -> bool:
    """Whether a request is for a file of the page, which holds no data and asks for the key itself."""
    return method in ("GET", "HEAD") and (path == "/" or path.removeprefix("/page/") in _names())


def add_page(app: FastAPI) -> None:
    """The routes of the page."""

    @app.get("/")
    async def index() -> Response:
        return _file("html", _read("serving", "index.html"))

    @app.get("/page/{name}")
    async def part(name: str) -> Response:
        if name == "explain.html":
            return _file("html", _explaining())
        if name not in _names():
            there = first_of(sorted(_names()), len(_names()), like=name)
            raise ServingError(404, f"GET /page/{clipped(name)}: nothing is there; there are {there}.")
        package, source = ("explain", _EXPLAIN[name]) if name in _EXPLAIN else ("serving", name)
        return _file(name.rpartition(".")[2], _read(package, source))


def _names() -> set[str]:
    return {*_PAGE, *_EXPLAIN, "explain.html"}


def _read(package: str, name: str) -> str:
    """A file of a package; the page's own are in its folder `page`."""
    folder = files("sharedllm.explain") if package == "explain" else files("sharedllm.serving") / "page"
    return (folder / name).read_text(encoding="utf-8")


def _file(kind: str, text: str) -> Response:
    return Response(text, media_type=f"{_TYPES[kind]}; charset=utf-8", headers=_HEADERS)


def _explaining() -> str:
    """The page of `sharedllm explain` without data: style and script are files, and a script fetches the data."""
    page = _read("explain", "page.html")
    page = re.sub(r"<meta http-equiv[^>]*>\n", "", page)
    page = page.replace("<style>\n{{style}}\n</style>", '<link rel="stylesheet" href="/page/explain.css">')
    page = page.replace(
        '<script type="module">\n{{script}}\n</script>', '<script type="module" src="/page/frame.js"></script>'
    )
    # A script may not write into a script, not even data.
    page = re.sub(r"<script type=\"application/json\" id=\"facts\">.*</script>", '<div id="facts" hidden></div>', page)
    return re.sub(r"\{\{\w+\}\}", "", page)
