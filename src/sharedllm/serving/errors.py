"""What went wrong, in the form that OpenAI's clients read."""

from typing import Any

# The type that goes with a status; any other client error is an invalid request.
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ServingError(Exception):
    """A request that gets no answer.

    status   of HTTP
    message  what was wrong, the value, and the fix
    field    of the request that it lies in, if in one
    retry    seconds after which another try may do better
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


def invalid(field: str | None, message: str) -> ServingError:
    """A request that can't be answered as it is."""
    return ServingError(400, message, field)
