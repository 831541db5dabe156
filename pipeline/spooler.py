"""The spooler of one job: deltas in, segments out, and the checkpoint that covers them."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from pipeline.budget import STREAM_BYTES, Budget
from pipeline.ports import Delta
from pipeline.watch import Live
from tokenspool.errors import ErrorKind, StreamError, TokenspoolError
from tokenspool.model import Attempt, Ending, Entry, Job, Kind, Seam, Segment, Spent


class ClaimLostError(Exception):
    """Somebody else owns the job now: stop this stream and write nothing more."""


class Spooler:
    """Gathers what a stream yields between two beats. Lives on the event loop; no locks.

    Three positions: `durable` is committed; an entry in flight is with the journal; what is pending
    here goes with the next beat. At most one entry of a job is in flight, so that each finds the
    (epoch, seq) that the one before it left.
    """

    def __init__(self, job: Job, *, worker: str, budget: Budget, max_bytes: int) -> None:
        """Go on from the claim's checkpoint."""
        self.job = job
        self._worker = worker
        self._budget = budget
        self._max_bytes = max_bytes
        self.durable = replace(job.checkpoint, epoch=job.epoch)
        self.head = self.durable
        self._pieces: dict[Kind, list[bytes]] = {}
        self._starts: dict[Kind, int] = {}
        self._sizes: dict[Kind, int] = dict(self.durable.offsets)
        self._generated = self._needed = 0
        self.pending = 0
        self._seams: list[Seam] = []
        self._attempts: list[Attempt] = []
        self._ending: Ending | None = None
        self._flight: Entry | None = None
        self._flight_bytes = 0
        self._dirty = False
        self.lost = False
        self._closed = False
        #: The stream under watch just now, so that a lost claim can interrupt a silent one.
        self.live: Live | None = None
        self.stored = asyncio.Event()
        self._failure: BaseException | None = None

    # --- what the stream does ----------------------------------------------------------------
    def add(self, delta: Delta) -> None:
        """Append a delta; its tokens count as generated and kept. Raises what a beat refused."""
        if self._failure is not None:
            raise self._failure  # behind refused text there would be a gap
        self._generated += delta.chunks
        self._needed += delta.chunks
        self._dirty = True
        size = len(delta.data)
        if not size:
            return  # an empty segment would take the place of the next one
        pieces = self._pieces.get(delta.kind)
        if pieces is None:
            pieces = self._pieces[delta.kind] = []
            self._starts[delta.kind] = self._sizes.get(delta.kind, 0)
        pieces.append(delta.data)
        self._sizes[delta.kind] = grown = self._sizes.get(delta.kind, 0) + size
        self.pending += size
        self._budget.take(size)
        if grown > self._max_bytes:
            msg = f"the answer is longer than max_output_bytes ({self._max_bytes:,})"
            raise StreamError(ErrorKind.TOO_LARGE, msg)

    def count(
        self, *, generated: int = 0, needed: int = 0, rebilled: int = 0, estimated: bool = False
    ) -> None:
        """Add tokens that no delta counted, or correct those that were."""
        self._generated += generated
        self._needed += needed
        if rebilled or estimated:
            spent = self.head.spent
            spent = replace(
                spent, rebilled=spent.rebilled + rebilled, estimated=spent.estimated or estimated
            )
            self.head = replace(self.head, spent=spent)
        self._dirty = True

    def note(self, *, seam: Seam | None = None, attempt: Attempt | None = None) -> None:
        """Put a seam or an attempt on record with the next beat."""
        if seam is not None:
            self._seams.append(seam)
        if attempt is not None:
            self._attempts.append(attempt)
        self._dirty = True

    def mark(self, **changes: object) -> None:
        """Change other fields of the checkpoint (stalls, continuations, strategy, cursor)."""
        self.head = replace(self.head, **changes)
        self._dirty = True

    def new_edition(self) -> None:
        """Begin the next edition from zero. Call it only with nothing pending (after `settled`)."""
        spent = replace(self.head.spent, needed=0)
        self.head = replace(self.head, edition=self.head.edition + 1, offsets={}, spent=spent)
        self._sizes = {}
        self._needed = 0
        self._dirty = True

    def end(self, ending: Ending) -> None:
        """Settle the job with the next beat. Raises what a beat refused: it is not covered."""
        if self._failure is not None:
            raise self._failure
        self._ending = ending
        self._dirty = True

    def accept(self) -> None:
        """Live with a refusal: what is durable is all there is."""
        self._failure = None

    # --- positions ---------------------------------------------------------------------------
    @property
    def text(self) -> int:
        """Bytes of visible text received in this edition, committed or not."""
        return self._sizes.get(Kind.TEXT, 0)

    def size(self, kind: Kind) -> int:
        """Bytes of one kind received in this edition, committed or not."""
        return self._sizes.get(kind, 0)

    @property
    def needed(self) -> int:
        """Tokens in the kept text, committed or not."""
        return self.head.spent.needed + self._needed

    @property
    def is_full(self) -> bool:
        """Whether this stream holds as much as one stream may."""
        return self.pending + self._flight_bytes >= STREAM_BYTES

    @property
    def in_flight(self) -> bool:
        """Whether an entry is with the journal just now."""
        return self._flight is not None

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything for the next beat."""
        return self._dirty and self._flight is None and not self.lost and self._failure is None

    async def settled(self) -> None:
        """Return when all that was added is durable; raises what stopped it."""
        while self._dirty or self._flight is not None:
            self.check()
            self.stored.clear()
            await self.stored.wait()
        self.check()

    async def room(self) -> None:
        """Return when this stream may hold more."""
        while self.is_full:
            self.check()
            self.stored.clear()
            await self.stored.wait()
        self.check()

    def close(self) -> None:
        """Learn that the journal has ended: nothing will be made durable any more."""
        self._closed = True
        self.stored.set()

    def check(self) -> None:
        """Raise if the claim is lost, or the journal refused this stream's data or has ended."""
        if self._closed:
            msg = "the journal has ended; what is committed is safe"
            raise TokenspoolError(msg)
        if self.lost:
            raise ClaimLostError
        if self._failure is not None:
            raise self._failure

    # --- what the journal does ---------------------------------------------------------------
    def cut(self) -> Entry:
        """Hand everything pending to a beat."""
        spent = self.head.spent
        self.head = replace(
            self.head,
            seq=self.durable.seq + 1,
            offsets=dict(self._sizes),
            furthest=max(self.head.furthest, self.text),
            spent=Spent(
                generated=spent.generated + self._generated,
                needed=spent.needed + self._needed,
                rebilled=spent.rebilled,
                estimated=spent.estimated,
            ),
        )
        self._flight = Entry(
            job=self.job,
            worker=self._worker,
            before=self.durable,
            after=self.head,
            segments=tuple(
                Segment(
                    kind=kind,
                    edition=self.head.edition,
                    seq=self.head.seq,
                    start=self._starts[kind],
                    data=pieces[0] if len(pieces) == 1 else b"".join(pieces),
                )
                for kind, pieces in self._pieces.items()
            ),
            seams=tuple(self._seams),
            attempts=tuple(self._attempts),
            ending=self._ending,
        )
        self._flight_bytes = self.pending
        self._pieces, self._starts = {}, {}
        self._seams, self._attempts = [], []
        self._generated = self._needed = self.pending = 0
        self._dirty = False
        return self._flight

    def commit(self) -> Entry:
        """Learn that the entry in flight is durable, and give it."""
        entry = self._landed()
        self.durable = entry.after
        self.stored.set()
        return entry

    def lose(self) -> None:
        """Learn that the claim is lost."""
        if self._flight is not None:
            self._landed()
        self.lost = True
        self.stored.set()
        if self.live is not None:
            self.live.interrupt(ClaimLostError())

    def refuse(self, error: BaseException) -> None:
        """Learn that the journal cannot take the entry in flight; the stream fails alone."""
        self._landed()
        self._failure = error
        # The refused data is dropped, and what came after it: there must be no gap in the text.
        self.drop()
        self.head = self.durable
        self._sizes = dict(self.durable.offsets)
        self._generated = self._needed = 0
        self._seams, self._ending = [], None
        self.stored.set()
        if self.live is not None:
            self.live.interrupt(error)

    def drop(self) -> None:
        """Give the budget back what will never be committed."""
        self._budget.give(self.pending)
        self.pending = 0
        self._pieces, self._starts = {}, {}
        self._dirty = False

    def _landed(self) -> Entry:
        assert self._flight is not None  # noqa: S101 - the journal answers only what it was handed
        entry, self._flight = self._flight, None
        self._budget.give(self._flight_bytes)
        self._flight_bytes = 0
        return entry
