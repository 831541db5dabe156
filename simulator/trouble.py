"""What goes wrong between two tokens of a stream: odd events, silence, errors, an early end."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from simulator.chunks import ChunkWriter
from simulator.faults import Faults
from simulator.refusal import error_body
from simulator.steps import Comment, Cut, Send, Step, Steps, Wait

#: A wait without an end is taken in turns of this length.
LONG_S = 60.0
_GARBAGE = (b'{"id":"chatcmpl-', b"\\u00", b"<html>502 Bad Gateway</html>", b'{"choices":[{"delta')
#: How a stream is ended early, by the fault's name; what `Record.ended` calls it.
_ENDINGS = {
    "error_after_tokens": "error",
    "error_text_after_tokens": "error",
    "end_after_tokens": "end",
    "cut_after_tokens": "cut",
}
#: In this order, when several are at the same place.
_PLACED = (
    "garbage_at",
    "null_choices_at",
    "no_delta_at",
    "nan_at",
    "invalid_utf8_at",
    "nul_at",
    "stall_after_tokens",
    *_ENDINGS,
)


def forever() -> Steps:
    """Wait until the client has had enough."""
    while True:
        yield Wait(LONG_S)


class Trouble:
    """The faults of a stream that have a place in it."""

    def __init__(self, faults: Faults, writer: ChunkWriter | None) -> None:
        self._faults = faults
        self._writer = writer
        self.places: dict[int, list[str]] = {}
        for name in _PLACED:
            place = getattr(faults, name)
            if place is not None:
                self.places.setdefault(place, []).append(name)

    def at(self, token: int) -> Generator[Step, None, str]:
        """Give what happens before this token; returns how the stream ended by it, or nothing."""
        for name in self.places.get(token, ()):
            yield from self._steps(name)
            if name in _ENDINGS:
                return _ENDINGS[name]
        return ""

    def _steps(self, name: str) -> Steps:
        match name:
            case "stall_after_tokens":
                yield from self._stall()
            case "cut_after_tokens":
                yield Cut(self._faults.cut)
            case "end_after_tokens":
                return
            case _:
                if self._writer is not None:
                    yield from (Send(payload) for payload in self._events(name, self._writer))

    def _stall(self) -> Steps:
        left, every = self._faults.stall_s, self._faults.stall_comments_s
        while left is None or left > 0:
            turn = min(LONG_S if left is None else left, every or LONG_S)
            yield Wait(turn)
            if every:
                yield Comment(b": keep-alive")
            left = None if left is None else left - turn

    def _events(self, name: str, writer: ChunkWriter) -> Iterator[bytes]:
        code = self._faults.code or "server_error"
        message = "The server had an error in the middle of the answer"
        match name:
            case "garbage_at":
                for number in range(self._faults.garbage_events):
                    yield _GARBAGE[number % len(_GARBAGE)]
            case "null_choices_at":
                yield writer.choices(b"null")
                yield b"null"
                yield b"[]"
            case "no_delta_at":
                yield writer.choices(b'[{"index":0,"content_filter_offsets":{"start_offset":0}}]')
            case "nan_at":
                yield writer.delta(b'"content":"","logprob":NaN')
            case "invalid_utf8_at":
                yield writer.delta(b'"content":"\xff\xfe"')
            case "nul_at":
                yield writer.delta(rb'"content":"\u0000"')
            case "error_after_tokens":
                yield error_body(500, message, code=code)
                yield b"[DONE]"
            case "error_text_after_tokens":
                yield msgspec.json.encode({"error": f"{code}: {message}"})
                yield b"[DONE]"
            case _:
                raise AssertionError(name)
