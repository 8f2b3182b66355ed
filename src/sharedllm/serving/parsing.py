"""How requests are taken apart: nothing is taken that is sent twice, and who asks at a wrong address learns the right ones."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import Match

from ..utils.errors import clipped, first_of
from ..utils.json_text import parse_json
from .errors import invalid
from .requests import NoQuery


def asks_nothing(_: Annotated[NoQuery, Query()]) -> None:
    """A dependency of routes whose address takes no query."""


BARE = [Depends(asks_nothing)]


async def asked_once(request: Request) -> None:
    """A dependency of all routes.

    Raises:
        ServingError: the address has a query twice, of which the last would be taken.
    """
    names = Counter(name for name, _ in request.query_params.multi_items())
    if twice := next((name for name, times in names.items() if times > 1), None):
        raise invalid(twice, f"{clipped(twice)} is in the address twice: send it once.")


class _Strict(Request):
    async def json(self) -> Any:
        """
        Raises:
            Repeated: an object has a key twice. ValueError: the body is not JSON.
        """
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route whose requests have no key twice in their JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_Strict(request.scope, request.receive))

        return strict


def elsewhere(app: FastAPI, request: Request) -> str:
    """What to say of a method that an address does not take, or of an address that there is not: what there is."""
    path, routes = request.url.path, [route for route in app.routes if isinstance(route, APIRoute)]
    methods = {
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    asked = f"{request.method} {clipped(path)}"
    if methods:
        return f"{asked} is not possible: use {' or '.join(sorted(methods))}."
    there = dict.fromkeys(route.path_format for route in routes if route.path.startswith("/v1/"))
    return f"{asked}: nothing is there; there are {first_of(there, len(there), like=path)}."
