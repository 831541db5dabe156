"""Runs of text of one kind, gathered over a read and cut into deltas."""

from __future__ import annotations

from pipeline.ports import Delta
from tokenspool.model import Kind

_HIGH_FIRST, _HIGH_LAST = "\ud800", "\udbff"


class Runs:
    """Gathers text and gives one delta for each run of one kind.

    Half of a surrogate pair is kept back until its other half comes; alone it becomes U+FFFD.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._runs: list[tuple[Kind, list[str]]] = []
        self._kind: Kind | None = None
        self._texts: list[str] = []
        self._held: tuple[Kind, str] | None = None

    def add(self, kind: Kind, text: str) -> None:
        """Add one chunk's text of a kind; not empty."""
        if kind is not self._kind:
            self._kind, self._texts = kind, []
            self._runs.append((kind, self._texts))
        self._texts.append(text)

    def cut(self, *, last: bool = False) -> list[Delta]:
        """Give what was added since the last cut; with `last` also what was kept back."""
        if self._held is None and len(self._runs) == 1 and not last:
            kind, texts = self._runs[0]
            found = [self._delta(kind, "".join(texts), len(texts))]
        else:
            found = self._join(last=last)
        self._runs, self._kind, self._texts = [], None, []
        return [delta for delta in found if delta.data]

    def _join(self, *, last: bool) -> list[Delta]:
        found: list[Delta] = []
        for kind, texts in self._runs:
            text = "".join(texts)
            if self._held is not None:
                held, self._held = self._held, None
                if held[0] is kind:
                    text = held[1] + text
                else:
                    found.append(self._delta(held[0], held[1], 0, last=True))
            found.append(self._delta(kind, text, len(texts)))
        if last and self._held is not None:
            (kind, text), self._held = self._held, None
            found.append(self._delta(kind, text, 0, last=True))
        return found

    def _delta(self, kind: Kind, text: str, chunks: int, *, last: bool = False) -> Delta:
        try:
            return Delta(kind=kind, data=text.encode(), chunks=chunks)
        except UnicodeEncodeError:
            if not last and _HIGH_FIRST <= text[-1] <= _HIGH_LAST:
                self._held = (kind, text[-1])
                text = text[:-1]
            whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            return Delta(kind=kind, data=whole.encode(), chunks=chunks)
