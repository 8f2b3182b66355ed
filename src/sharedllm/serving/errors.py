"""Errors in the form that OpenAI's clients read."""

from typing import Any

# Status → error type; any other client error is an invalid request.
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ServingError(Exception):
    """A request that can't be answered.

    status   HTTP status
    message  the mistake, the value, and the fix
    field    the field of the request that is wrong, if any
    retry    seconds after which the client may try again
    """

    def __init__(self, status: int, message: str, field: str | None = None, retry: int | None = None):
        super().__init__(message)
        self.status, self.field, self.retry = status, field, retry

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": None}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry is None else {"Retry-After": str(self.retry)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def late(seconds: float) -> ServingError:
    """The error for a request whose time is up."""
    return ServingError(
        504, f"the request took longer than {seconds:g} s: ask for less, or raise the server's `--timeout`."
    )


def stopping() -> ServingError:
    """The error for what is not done any more before the server ends."""
    return ServingError(503, "the server is stopping: try again later.")


def left() -> ServingError:
    """The error for a request whose client left. Nobody reads it."""
    return ServingError(499, "the client left.")


def invalid(field: str | None, message: str) -> ServingError:
    """The error for an invalid request."""
    return ServingError(400, message, field)
