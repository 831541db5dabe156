"""How many tokens a request will use: reckoned before, put right after."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.ports import Ask, AskOn, GoOnFrom

#: What a request is taken to use until one has ended.
FIRST = 1000
_WEIGHT = 0.1
_BYTES_PER_TOKEN = 4
_LIMITS = ("max_completion_tokens", "max_tokens")


class Reckoning:
    """Learns what requests of one endpoint use."""

    def __init__(self) -> None:
        """Know nothing."""
        self._whole: float | None = None
        self._output: float | None = None

    @property
    def typical(self) -> int:
        """Tokens of a request of which nothing is known."""
        return max(1, round(FIRST if self._whole is None else self._whole))

    def reckon(self, ask: Ask) -> int:
        """Give the tokens of a request: its prompt, and its limit or the usual answer."""
        limit = ask.limit or next((n for name in _LIMITS if (n := _count(ask.body, name))), None)
        output = limit or (self.typical if self._output is None else round(self._output))
        return prompt_tokens(ask) + output

    def learn(self, *, prompt: int, output: int) -> None:
        """Learn what a request used."""
        self._whole = _mean(self._whole, prompt + output)
        self._output = _mean(self._output, output)


def prompt_tokens(ask: Ask) -> int:
    """Estimate the tokens of what is sent.

    >>> prompt_tokens(Ask(body={"messages": [{"role": "user", "content": "x" * 36}]}))
    10
    """
    size = _length(ask.body.get("messages")) + _length(ask.body.get("prompt"))
    if isinstance(ask.turn, GoOnFrom | AskOn):
        size += len(ask.turn.text)
    return size // _BYTES_PER_TOKEN


def _length(value: object) -> int:
    """Give about the bytes of the text in it."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="replace"))
    if isinstance(value, Mapping):
        return sum(map(_length, value.values()))
    return sum(map(_length, value)) if isinstance(value, list) else 0


def _count(body: Mapping[str, object], name: str) -> int | None:
    value = body.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _mean(before: float | None, value: int) -> float:
    return value if before is None else before + _WEIGHT * (value - before)
