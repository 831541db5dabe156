"""What the engine needs from the world: the contracts that sources, outputs and stores fulfil."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from msgspec import Struct

from tokenspool.errors import StreamError
from tokenspool.model import Entry, Job, Kind, Prefill
from tokenspool.store.endpoints import Known
from tokenspool.store.publishing import Published


# --- what a source is asked -------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """Ask from zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOnFrom:
    """Put `text` back as the beginning of the answer and let the model go on (prefill)."""

    text: str
    flag: Prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOn:
    """Show the answer so far as history and ask, in a user turn that quotes `tail`, to go on."""

    text: str
    tail: str


Turn = Fresh | GoOnFrom | AskOn


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to a source."""

    #: The user's own request body; never changed by a source.
    body: Mapping[str, object]
    turn: Turn = Fresh()
    #: Tokens this answer may have at most; None leaves the body's own limit as it is.
    limit: int | None = None


# --- what a source yields ---------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The endpoint accepted the request: headers are here. Always the first item."""

    request_id: str | None = None
    headers: Mapping[str, str]


class Delta(Struct, frozen=True, kw_only=True, gc=False):
    """A piece of the answer, whole UTF-8 characters. `chunks` provider chunks went into it."""

    kind: Kind
    data: bytes
    chunks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the endpoint reported them; None where it said nothing."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The proven end of an answer, the last item. Without it the source raises."""

    #: `stop`, `length`, `tool_calls`, `content_filter` or what else the endpoint said;
    #: "unconfirmed" when the endpoint is declared to end with [DONE] alone.
    reason: str
    usage: Usage | None = None
    #: Malformed events that were skipped on the way.
    skipped: int = 0


Event = Opened | Delta | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a probe of an endpoint found, and what it cost in tokens."""

    known: Known
    generated: int
    rebilled: int


class Source(Protocol):
    """Where text comes from: one wire of one endpoint.

    `stream` yields Opened, then Deltas, then Finish. Anything else raises
    `tokenspool.errors.StreamError`, after every Delta that arrived before it was yielded. The
    socket is paused whenever the caller does not pull. Close it with `contextlib.aclosing`.
    """

    def stream(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """Send the request and yield what comes."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Pace(Protocol):
    """When a paused socket is read again.

    Storage does not need a wake-up per token: a reader sleeps until its next tick and then takes
    all that the kernel has gathered. `key` spreads the readers over the beats of a tick.
    """

    async def tick(self, key: int) -> None:
        """Return at this reader's next tick."""
        ...


class Clock(Pace, Protocol):
    """The rhythm of a process: beats that wake the readers whose turn it is."""

    async def beat(self) -> None:
        """Sleep until the next beat, wake its readers, and return when they have read."""
        ...

    def committed(self, seconds: float) -> None:
        """Learn how long a commit took; from any thread."""
        ...


class Gate(Protocol):
    """Whether an endpoint takes requests just now; told by the engine how they go.

    A claimed job may make one request. For every further one of the same claim it asks again.
    """

    @property
    def is_open(self) -> bool:
        """Whether it takes work."""
        ...

    def may_retry(self) -> bool:
        """Tell whether what failed may be tried again now, and count it; False: later."""
        ...

    async def again(self) -> bool:
        """Return True once a further request may be made; False when the job has to make room."""
        ...

    def asked(self, ask: Ask) -> int:
        """Learn of a request that is about to be made; give the tokens that it is reckoned with."""
        ...

    def used(self, ask: Ask, *, reckoned: int, prompt: int | None, output: int | None) -> None:
        """Learn what a request used at its end; `output` is None when it was not accepted."""
        ...

    def answered(self, headers: Mapping[str, str]) -> None:
        """Learn that it accepted a request, and what it said of its limits."""
        ...

    def spoke(self) -> None:
        """Learn that an accepted request began to be answered."""
        ...

    def failed(self, error: StreamError, *, asked_at: float | None = None) -> None:
        """Learn how a request failed, and when by `time.monotonic` it was sent; None: just now."""
        ...


# --- where text is kept -------------------------------------------------------------------------
class Store(Protocol):
    """The database, as the engine sees it. All calls block: the journal's thread makes them."""

    def commit(self, entries: Sequence[Entry]) -> frozenset[tuple[int, int]]:
        """Commit a beat; give the claims (job id, epoch) that are lost."""
        ...

    def text(
        self, job_id: int, *, edition: int, kind: Kind, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """Yield committed bytes in pieces; usable from any thread."""
        ...

    def stands(self, job_id: int, epoch: int) -> bool:
        """Tell whether the claim is still the job's newest; usable from any thread."""
        ...

    def born(self, job_id: int) -> str:
        """Give what tells the job from those of other databases; usable from any thread."""
        ...


class Output(Protocol):
    """A place that shows a text while it grows. All calls block; the delivery makes them."""

    def open(self, job: Job) -> Part:
        """Begin this claim's own part, empty, and remove those of older claims."""
        ...


class Part(Protocol):
    """The growing text of one claim of one job."""

    def write(self, data: bytes, *, at: int) -> None:
        """Write at an offset; raises OSError."""
        ...

    def read(self) -> Iterator[bytes]:
        """Yield what the part holds, from the start."""
        ...

    def truncate(self) -> None:
        """Begin again from zero."""
        ...

    def publish(self, fault: Fault) -> None:
        """Sync the part and give it the output's name. Raises `PartVanishedError`, OSError."""
        ...

    @property
    def place(self) -> Hashable:
        """What is the same for parts that one `sync_place` makes durable together."""
        ...

    def sync_place(self) -> None:
        """Make the names durable that were given in this place; raises OSError."""
        ...

    def remove(self) -> None:
        """Delete the part: its claim is lost. It may be gone already; raises OSError."""
        ...

    def close(self) -> None:
        """Let go of the part; it stays where it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedText:
    """A text that is committed to its end, as an output takes it that shows nothing before."""

    job: Job
    #: Tells the job from those of other databases that have the same id.
    born: str
    size: int
    sha256: bytes
    #: Yields it from the journal, from the start at each call.
    read: Callable[[], Iterator[bytes]]
    #: Tells whether the claim is still the job's newest.
    stands: Callable[[], bool]


@runtime_checkable
class WholeOutput(Protocol):
    """A place where a text appears whole or not at all. Called from several threads; blocks."""

    #: Outputs of one kind share their threads.
    kind: str

    def publish(self, text: FinishedText, fault: Fault) -> None:
        """Put the text there; once more does no harm, and a lost claim puts nothing.

        Raises PartVanishedError, OSError to be tried again, StreamError if that is no use.
        """
        ...


class PartVanishedError(Exception):
    """The part is gone at the rename, or its claim no longer stands: the job was lost."""


class Delivery(Protocol):
    """Shows on disk what the journal holds, without ever making it wait. Called on the loop."""

    def open(self, job: Job) -> None:
        """Begin a claim's part; it is built from the journal up to the claim's checkpoint."""
        ...

    def show(self, entries: Sequence[Entry]) -> None:
        """Take what a beat committed."""
        ...

    async def publish(self, job: Job) -> Published | None:
        """Publish a complete job, trying again while the output refuses; None if it was lost."""
        ...

    def close(self, job: Job) -> None:
        """Let go of a claim's part; the file stays."""
        ...


Fault = Callable[[str], None]
"""A named point of the code where a test may stop the world; a no-op otherwise."""


def no_fault(_point: str) -> None:
    """Go on."""
