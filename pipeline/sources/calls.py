"""Tool calls as they come in pieces: to which call each piece belongs."""

from __future__ import annotations

import json

from pipeline.sources.chunks import Call, Function


class Calls:
    """Numbers the tool calls of one answer.

    Servers leave out the index, or say 0 for all; a new id, or a name where there is neither, is a
    new call. A piece without an id belongs to the call that last had its index.
    """

    def __init__(self) -> None:
        """Begin without a call."""
        self._by_id: dict[str, int] = {}
        self._by_wire: dict[int | None, int] = {}
        self._count = 0

    def line(self, call: Call) -> str:
        """Give a piece as one JSON line."""
        function = call.function or Function()
        wire = call.index
        if call.id:
            index = self._by_id.get(call.id)
            if index is None:
                index = self._by_id[call.id] = self._new(wire)
        else:
            index = self._by_wire.get(wire)
            if index is None or (wire is None and function.name):
                index = self._new(wire)
        self._by_wire[wire] = index
        if wire is not None:
            self._by_wire[None] = index
        return _line(index, call.id, function)

    def _new(self, wire: int | None) -> int:
        """Choose a new call's number: its index on the wire, unless that is taken."""
        taken = self._by_wire.values()
        index = wire if wire is not None and wire >= 0 and wire not in taken else self._count
        self._count = max(self._count, index) + 1
        return index


def function_line(function: Function) -> str:
    """Give a piece of the older `function_call` as the only call's line."""
    return _line(0, None, function)


def _line(index: int, call_id: str | None, function: Function) -> str:
    piece = {
        "index": index,
        "id": call_id,
        "name": function.name,
        "arguments": function.arguments,
    }
    text = json.dumps(piece, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: escaped, it joins when it is read
            text = json.dumps(piece)
    return text + "\n"
