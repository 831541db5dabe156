"""The form of an event stream: payloads become the bytes of events, well formed or oddly."""

from __future__ import annotations

import re
from collections.abc import Iterator

from simulator.faults import Faults
from simulator.steps import Comment, Cut, Piece, Raw, Send, Step, Steps, Wait

_PING = b"event: ping%bdata:%b%b"
#: Behind the first byte of a character that has several.
_INSIDE_CHARACTER = re.compile(rb"(?<=[\xc2-\xf4])")


def framed(steps: Steps, faults: Faults) -> Steps:
    """Turn payloads into events."""
    form = _Form(faults)
    if form.is_decorated:
        yield from _decorated(steps, form)
        return
    head, foot = form.head, form.foot
    for step in steps:
        if type(step) is bytes:
            yield head + step + foot
        else:
            yield form.frame(step)


class _Form:
    """How events are written."""

    def __init__(self, faults: Faults) -> None:
        self.eol = b"\r\n" if faults.crlf else b"\r" if faults.cr else b"\n"
        self.head = b"data:" if faults.no_space else b"data: "
        self.foot = 2 * self.eol
        self.faults = faults

    @property
    def is_decorated(self) -> bool:
        """Tell whether anything stands between, before or inside of events."""
        faults = self.faults
        extras = faults.bom or faults.event_ids or faults.multiline
        return bool(extras or faults.comments or faults.pings)

    def frame(self, step: Step) -> Step:
        """Write one event, or a comment; other steps stay as they are."""
        if isinstance(step, Send):
            data = self.head + step.data + (self.foot if step.closed else b"")
            return Send(data, step.tokens)
        if isinstance(step, Comment):
            return Send(step.data + self.foot)
        return step


def _decorated(steps: Steps, form: _Form) -> Steps:
    """Turn payloads into events with things between them."""
    faults, eol = form.faults, form.eol
    if faults.bom:
        yield Send(b"\xef\xbb\xbf")
    number = 0
    for step in steps:
        if not isinstance(step, bytes | Send):
            yield form.frame(step)
            continue
        told = Send(step, 1) if isinstance(step, bytes) else step
        number += 1
        if faults.event_ids:
            yield Send(b"id: %d%b" % (number, eol))
        if faults.multiline:
            lines = told.data.replace(b',"choices"', eol + b'data: ,"choices"', 1)
            told = told._replace(data=lines)
        yield form.frame(told)
        if faults.comments and number % faults.comments == 0:
            yield Send(b": still here" + form.foot)
        if faults.pings and number % faults.pings == 0:
            yield Send(_PING % (eol, eol, eol))


def shaped(steps: Steps, faults: Faults) -> Steps:
    """Cut the body short, or into odd writes, where the faults say so."""
    if faults.bytes_per_write or faults.split_utf8:
        steps = _pieces(steps, faults)
    if faults.cut_after_bytes is not None:
        steps = _cut_after(steps, faults.cut_after_bytes, faults)
    return steps


def _pieces(steps: Steps, faults: Faults) -> Steps:
    for step in steps:
        if isinstance(step, bytes | Send) and (data := _data(step)):
            *before, last = _split(data, faults)
            yield from map(Piece, before)
            yield Piece(last, _tokens(step))
        else:
            yield step


def _split(data: bytes, faults: Faults) -> Iterator[bytes]:
    if faults.bytes_per_write:
        step = faults.bytes_per_write
        return (data[at : at + step] for at in range(0, len(data), step))
    return (part for part in _INSIDE_CHARACTER.split(data) if part)


def _cut_after(steps: Steps, size: int, faults: Faults) -> Steps:
    left = size
    for step in steps:
        if isinstance(step, Raw | Wait | Cut | Comment):
            yield step
            continue
        data = _data(step)
        if len(data) >= left:
            yield Send(data[:left], _tokens(step) if len(data) == left else 0)
            yield Cut(faults.cut)
            return
        left -= len(data)
        yield step


def _data(step: bytes | Send | Piece) -> bytes:
    return step if isinstance(step, bytes) else step.data


def _tokens(step: bytes | Send | Piece) -> int:
    return 1 if isinstance(step, bytes) else step.tokens
