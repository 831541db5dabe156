"""Answers that say no: an HTTP status and OpenAI's error object."""

from __future__ import annotations

import msgspec

#: The type an error has unless its status says otherwise.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded", 529: "overloaded_error"}
_SERVER = 500


class Refusal(Exception):  # noqa: N818 - it is an answer, and the simulator's own error only by its side
    """A request that is refused."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, code=code, param=param)
        self.retry_after = retry_after


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> bytes:
    """Give the JSON of an error, as OpenAI sends it."""
    kind = _TYPES.get(status, "server_error" if status >= _SERVER else "invalid_request_error")
    return msgspec.json.encode(
        {
            "error": {
                "message": message,
                "type": kind,
                "param": param,
                "code": code or _CODES.get(status),
            }
        }
    )
