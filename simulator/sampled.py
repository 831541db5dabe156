"""Sampled texts: every answer has other words, but each token carries its index.

A token is `word·index` and a space, `lantern·12 `: whatever was joined from however many answers,
the indexes prove that nothing is doubled and nothing is missing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from simulator.mixing import STRIDE, mix
from simulator.place import Place
from simulator.vocabulary import SAMPLED_WORDS

_DOT = "·".encode()
_WORDS = tuple(word.encode() for word in SAMPLED_WORDS)
_KNOWN = frozenset(_WORDS)
_INDEX = re.compile(_DOT + rb"(\d+)([ \n]+)")
_TOKEN = re.compile(rb"([^ \n]*?)" + _DOT + rb"(\d+)([ \n]*)")
#: Where the last whole token of a prefix is looked for; no token is nearly as long.
_TAIL = 512
#: After this many problems the rest says nothing new.
MAX_PROBLEMS = 20


class Sampled:
    """An answer of a model that samples: `salt` decides the words, never the indexes."""

    __slots__ = ("_base",)

    def __init__(self, seed: int, key: int, *, salt: int = 0) -> None:
        self._base = mix(mix(mix(seed) + key) + salt)

    def tokens(self, start: int = 0) -> Iterator[bytes]:
        """Give the tokens from `start` on, without end."""
        for index in itertools.count(start):
            yield _token(_WORDS[mix(self._base + index * STRIDE) % len(_WORDS)], index)

    def place(self, prefix: bytes) -> Place | None:
        """Find where a prefix ends, whichever sample it is from; None if it is of no sample."""
        tail = prefix[-_TAIL:]
        wholes = list(_INDEX.finditer(tail))
        if not wholes:
            return _complete(tail, 0) if len(prefix) <= _TAIL else None
        last = wholes[-1]
        index = int(last[1])
        said, due = last[2], _space(index)
        if said == due:
            return _complete(tail[last.end() :], index + 1)
        if due.startswith(said) and last.end() == len(tail):
            return Place(rest=due[len(said) :], token=index + 1)
        return None


def check_sampled(text: str, *, tokens: int | None = None, whole: bool = True) -> list[str]:
    """Give what is wrong with a text joined from sampled answers; nothing if it is as it should be.

    With `tokens`, the text has exactly so many. Without `whole`, it may end inside a token.
    """
    problems: list[str] = []
    data, at, due = text.encode(), 0, 0
    while at < len(data) and len(problems) < MAX_PROBLEMS:
        found = _TOKEN.match(data, at)
        is_last = found is None or found.end() == len(data)
        if is_last and not whole and any(token.startswith(data[at:]) for token in _all(due)):
            break
        if found is None:
            problems.append(f"byte {at}: no token begins here: {_show(data[at:])}")
            break
        problems += _problems_of(found, due)
        at, due = found.end(), int(found[2]) + 1
    if tokens is not None and due != tokens:
        problems.append(f"the text has {due} tokens, not {tokens}")
    return problems


def _problems_of(found: re.Match[bytes], due: int) -> list[str]:
    word, index, where = found[1], int(found[2]), f"byte {found.start()}"
    problems: list[str] = []
    if found[2] != b"%d" % due:
        what = "missing" if index > due else "doubled"
        problems.append(f"{where}: token {due} should be here, not {index}: text is {what}")
    if word not in _KNOWN:
        problems.append(f"{where}: token {index} is no word: {_show(word)}")
    if found[3] != _space(index):
        problems.append(f"{where}: the white space behind token {index} is {found[3]!r}")
    return problems


def _show(data: bytes) -> str:
    return repr(data[:40].decode(errors="replace"))


def _token(word: bytes, index: int) -> bytes:
    return b"%b%b%d%b" % (word, _DOT, index, _space(index))


def _all(index: int) -> Iterator[bytes]:
    """Give every token that may stand at this index."""
    return (_token(word, index) for word in _WORDS)


def _space(index: int) -> bytes:
    """Give what stands behind a token: a line has 16 of them, a paragraph 64."""
    if index % 64 == 63:  # noqa: PLR2004 - said above
        return b"\n\n"
    return b"\n" if index % 16 == 15 else b" "  # noqa: PLR2004 - said above


def _complete(partial: bytes, index: int) -> Place | None:
    """Complete token `index`, of which `partial` is said already."""
    if not partial:
        return Place(rest=b"", token=index)
    for token in _all(index):
        if token.startswith(partial):
            return Place(rest=token[len(partial) :], token=index + 1)
    if index and not re.search(rb"[ \n]|" + _DOT, partial):
        return Place(rest=b"%b%d%b" % (_DOT, index, _space(index)), token=index + 1)
    return None
