"""HTTP/1.1, as much of it as clients of a model speak."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass

from simulator.refusal import Refusal

#: A conversation with a whole book in it; more is refused with 413.
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request."""

    method: str
    path: str
    query: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes

    @property
    def keeps_alive(self) -> bool:
        """Tell whether another request may follow on the connection."""
        return self.headers.get("connection", "").lower() != "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response that is there at once."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] | None = None

    def data(self) -> bytes:
        """Give its bytes."""
        fields = {
            "content-type": self.content_type,
            "content-length": str(len(self.body)),
            **(self.headers or {}),
        }
        return head(self.status, fields) + self.body


def head(status: int, fields: Mapping[str, str]) -> bytes:
    """Give a response's status line and header fields."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Overloaded" if status == 529 else "Unknown"  # noqa: PLR2004 - not in the standard
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join((*lines, "", "")).encode("latin-1", "replace")


class RequestReader:
    """Cuts what a connection receives into requests. Its memory is bounded."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max = max_body_bytes
        self._data = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._chunks: bytearray | None = None
        #: Does the client wait to be told that its body is welcome?
        self.expects_continue = False

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._data += data

    def next(self) -> Request | None:
        """Give the next request that is complete. Raises Refusal."""
        if self._head is None:
            self._head = self._read_head()
            if self._head is None:
                return None
        method, target, headers = self._head
        body = self._read_body(headers)
        if body is None:
            return None
        self._head = self._chunks = None
        self.expects_continue = False
        path, _, query = target.partition("?")
        return Request(method=method, path=path, query=query, headers=headers, body=body)

    def _read_head(self) -> tuple[str, str, dict[str, str]] | None:
        while self._data.startswith(b"\r\n"):
            del self._data[:2]
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > MAX_HEAD_BYTES:
                raise Refusal(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
            return None
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        del self._data[: end + 4]
        try:
            method, target, version = first.split(" ")
            headers = {name.strip().lower(): value.strip() for name, value in map(_field, lines)}
        except ValueError as error:
            raise Refusal(400, "this is not an HTTP request") from error
        if version != "HTTP/1.1":
            raise Refusal(505, f"{version} is not spoken here, HTTP/1.1 is")
        self.expects_continue = headers.get("expect", "").lower() == "100-continue"
        return method, target, headers

    def _read_body(self, headers: Mapping[str, str]) -> bytes | None:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunks()
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refusal(400, f"content-length is {length!r}, not a number")
        size = int(length)
        self._check(size)
        if len(self._data) < size:
            return None
        body = bytes(self._data[:size])
        del self._data[:size]
        return body

    def _read_chunks(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = bytearray()
        while (end := self._data.find(b"\r\n")) >= 0:
            try:
                size = int(bytes(self._data[:end]).split(b";")[0], 16)
            except ValueError as error:
                raise Refusal(400, "a chunk of the body has no length") from error
            self._check(len(self._chunks) + size)
            if len(self._data) < end + 2 + size + 2:
                return None
            self._chunks += self._data[end + 2 : end + 2 + size]
            del self._data[: end + 2 + size + 2]
            if size == 0:
                return bytes(self._chunks)
        return None

    def _check(self, size: int) -> None:
        if size > self._max:
            raise Refusal(_TOO_LARGE, f"the request is larger than {self._max} bytes")


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ValueError(line)
    return name, value
