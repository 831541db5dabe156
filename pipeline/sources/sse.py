"""Server-sent events on bytes: the events completed by each piece, within bounds.

Lines end in LF, CR or CRLF and in nothing else: `splitlines` would also cut at U+2028 and others,
which JSON may hold raw. Pieces are cut before they are decoded, so a character may span them.
"""

from __future__ import annotations

import json

from tokenspool.errors import ErrorKind, StreamError

MAX_EVENT_BYTES = 8 * 1024 * 1024
MAX_EVENT_LINES = 10_000
_BOM = b"\xef\xbb\xbf"
#: What no event stream begins with, but a JSON document or a page does.
_FOREIGN = (b"{", b"[", b"<")


class SseReader:
    """Reads one event stream, piece by piece.

    `feed` gives the data of every event that a piece completes. An event over the limits ends the
    reading: `failure` is set, and what was complete before it has been given. Time and memory are
    proportional to the bytes fed, however they are cut.
    """

    def __init__(
        self, max_event_bytes: int = MAX_EVENT_BYTES, max_event_lines: int = MAX_EVENT_LINES
    ) -> None:
        """Begin at the start of a stream."""
        self._max_bytes = max_event_bytes
        self._max_lines = max_event_lines
        self.events = 0
        self.comments = 0
        self.bytes = 0
        #: Set when an event was over a limit; nothing is read after it.
        self.failure: StreamError | None = None
        #: The last line that belongs to no event stream, by its look an object: servers that fail
        #: in the middle of an answer write their error like this.
        self.stray: bytes | None = None
        # The beginning of an event whose end has not come, in pieces and in numbers.
        self._pieces: list[bytes] = []
        self._size = 0
        self._lines = 0
        self._after_cr = False
        self._in_comment = False
        # None once it is clear whether the stream begins with a byte order mark.
        self._head: bytes | None = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Give the data of the events that this piece completes, those without any left out."""
        self.bytes += len(data)
        if self._head is not None:
            data = self._without_bom(self._head + data)
        if self._after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        if not data or self.failure is not None:
            return []
        if not self._pieces:
            data = self._skip_between(data)
        end = data.rfind(b"\n\n") + 2
        if end == 1 and not self._ends_line(data):
            self._keep(data)
            return []
        found = self._events(b"".join([*self._pieces, data[:end]]) if self._pieces else data[:end])
        self._pieces, self._size, self._lines = [], 0, 0
        if end < len(data) and self.failure is None:
            self._keep(self._skip_between(data[end:]))
        return found

    def rest(self) -> bytes | None:
        """Give the last event when the stream ended before its blank line, if it is whole.

        Many servers forget the blank line; a cut event is told from a whole one by its JSON.
        """
        text, self._pieces = b"".join(self._pieces), []
        found: list[bytes] = []
        if text and self.failure is None:
            self._parse(text + b"\n\n", found)
        if not found:
            return None
        payload = found[-1].strip()
        if payload != b"[DONE]" and not is_object(payload):
            self.events -= 1
            return None
        return found[-1]

    def _ends_line(self, data: bytes) -> bool:
        """Tell whether a blank line is cut between what is kept and this piece."""
        return bool(self._pieces) and data.startswith(b"\n") and self._pieces[-1].endswith(b"\n")

    def _skip_between(self, data: bytes) -> bytes:
        """Skip blank lines and comments before an event: keep-alives must not pile up."""
        at = 0
        while self._in_comment or data.startswith((b":", b"\n"), at):
            self.comments += not self._in_comment and data.startswith(b":", at)
            end = data.find(b"\n", at)
            self._in_comment = end < 0
            if end < 0:
                return b""
            at = end + 1
        return data[at:]

    def _events(self, text: bytes) -> list[bytes]:
        """Read whole events; those of one `data: ` line each are cut in one step."""
        if text.startswith(b"data: ") and len(text) <= self._max_bytes:
            payloads = text[6:-2].split(b"\n\ndata: ")
            if text.count(b"\n") == 2 * len(payloads) and b"" not in payloads:
                self.events += len(payloads)
                return payloads
        found: list[bytes] = []
        self._parse(text, found)
        return found

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._pieces.append(data)
        self._size += len(data)
        self._lines += data.count(b"\n")
        self._check(self._size, self._lines)
        if self.failure is not None:
            self._pieces = []

    def _parse(self, text: bytes, found: list[bytes]) -> None:
        """Read whole events, each ended by its blank line, as the specification says."""
        lines: list[bytes] = []
        size = count = 0
        for line in text[:-1].split(b"\n"):
            if line:
                # Comments between two events belong to neither.
                if not size and line.startswith(b":"):
                    self.comments += 1
                    continue
                size += len(line) + 1
                count += 1
                self._read_line(line, lines)
                continue
            self._check(size, count)
            if self.failure is not None:
                return
            payload = b"\n".join(lines)
            if payload:
                self.events += 1
                found.append(payload)
            lines, size, count = [], 0, 0

    def _read_line(self, line: bytes, lines: list[bytes]) -> None:
        if line.startswith(b"data:"):
            lines.append(line[6:] if line.startswith(b" ", 5) else line[5:])
        elif line.startswith(b":"):
            self.comments += 1
        elif line == b"data":
            lines.append(b"")
        elif line.startswith(b"{"):
            self.stray = line

    def _check(self, size: int, lines: int) -> None:
        if size > self._max_bytes:
            message = f"an event is larger than max_event_bytes ({self._max_bytes:,})"
        elif lines > self._max_lines:
            message = f"an event has more than {self._max_lines:,} lines"
        else:
            return
        self.failure = StreamError(ErrorKind.TOO_LARGE, message)

    def _without_bom(self, data: bytes) -> bytes:
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._head = data
            return b""
        self._head = None
        return data.removeprefix(_BOM)

    def _with_line_feeds(self, data: bytes) -> bytes:
        """Make every line end in LF; a CRLF may be cut between two pieces."""
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def is_object(payload: bytes) -> bool:
    """Tell whether bytes are a JSON object."""
    try:
        return isinstance(json.loads(payload), dict)
    except (ValueError, RecursionError):
        return False


def is_foreign(body: bytes) -> bool:
    """Tell by its first bytes whether an answer is a document rather than an event stream."""
    return body.removeprefix(_BOM).lstrip().startswith(_FOREIGN)
