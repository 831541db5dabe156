"""What the simulator counts, so that a test can state what an answer has cost."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass, field

#: So much of a question is kept to tell requests apart.
QUESTION_CHARS = 80


@dataclass(slots=True, kw_only=True)
class Record:
    """One chat request: what came in, what went out, how it ended."""

    number: int
    model: str
    #: The beginning of the user message that it is for.
    question: str
    #: answer, prefix or ask: see `Conversation.kind`.
    kind: str
    stream: bool
    #: Bytes of an answer's beginning that it brought along.
    prefix_bytes: int
    #: The same, if the answer went on behind them; None: it began anew.
    resumed_at: int | None = None
    prompt_tokens: int = 0
    #: Tokens handed to the socket.
    tokens: int = 0
    status: int = 0
    faults: dict[str, object] = field(default_factory=dict)
    #: A finish reason, `end` without one, `cut`, `error`, `refused`, `client` if it went away, or
    #: `live`.
    ended: str = "live"


class Counts:
    """All requests since the start or the last reset."""

    def __init__(self, *, keep: int) -> None:
        self._keep = keep
        self.reset()

    def reset(self) -> None:
        """Begin to count anew; what is live now is not counted."""
        self.requests = 0
        self._generated = 0
        self._prompt_tokens = 0
        self._peak = 0
        self._by_status: Counter[int] = Counter()
        self._live: dict[int, Record] = {}
        self._recent: deque[Record] = deque(maxlen=self._keep)

    @property
    def live(self) -> int:
        """How many answers are being given."""
        return len(self._live)

    def remember(self, record: Record) -> None:
        """Keep the record of a request."""
        self._recent.append(record)

    def answered(self, status: int) -> None:
        """Count the status of an answer, 0 for none at all."""
        self._by_status[status] += 1

    def speaks(self, record: Record) -> None:
        """Count an answer as being given."""
        self._live[record.number] = record
        self._prompt_tokens += record.prompt_tokens
        self._peak = max(self._peak, len(self._live))

    def ended(self, record: Record) -> None:
        """Count an answer as given, or broken off."""
        if self._live.pop(record.number, None):
            self._generated += record.tokens

    def stats(self) -> dict[str, object]:
        """Give all counts."""
        return {
            "requests": self.requests,
            "generated": self._generated + sum(record.tokens for record in self._live.values()),
            "prompt_tokens": self._prompt_tokens,
            "live": len(self._live),
            "peak_live": self._peak,
            "by_status": {str(status): n for status, n in sorted(self._by_status.items())},
        }

    def recent(self, count: int) -> list[dict[str, object]]:
        """Give the last requests, the newest last."""
        return [asdict(record) for record in list(self._recent)[-count:]] if count > 0 else []
