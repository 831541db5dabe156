"""Receiving one answer: from the source through the join into the spooler."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from pipeline.joining import Join, Refused
from pipeline.parts import Parts, Site
from pipeline.ports import Ask, Delta, Finish, Opened
from pipeline.spooler import ClaimLostError, Spooler
from pipeline.watch import Live
from tokenspool.errors import StreamError
from tokenspool.model import Attempt, Failure, Kind, Resume, Seam

#: A provider's chunk of more bytes than this holds several tokens.
CHUNK_BYTES = 16
BYTES_PER_TOKEN = 4
#: Thoughts and calls that wait for the join are held up to this; what is more is not kept.
HELD_BYTES = 64 * 1024


class SeamForbiddenError(Exception):
    """The job wants no seam that is not proven (`--on-seam fail`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The next request, and how its answer is joined on."""

    #: None asks fresh.
    strategy: Resume | None
    ask: Ask
    #: None appends everything.
    join: Join | None
    cause: str
    #: Tokens of prefix that are sent again.
    rebilled: int = 0


class Answer:
    """One request and what came of it. Use once."""

    def __init__(self, prepared: Prepared, spooler: Spooler, parts: Parts, site: Site) -> None:
        """Prepare to receive."""
        self._prepared = prepared
        self._spooler = spooler
        self._parts = parts
        self._site = site
        self._join = prepared.join
        self.opened = False
        #: Bytes of visible text that were appended.
        self.text = 0
        self._chunks = 0
        self._bytes = 0
        self._kept_whole = True
        #: What is no text and came before the join was decided.
        self._held: list[Delta] = []
        self._held_bytes = 0
        self._begun = time.time()
        self.asked_at = time.monotonic()
        self._reckoned = 0
        self._first_token_s: float | None = None
        self._request_id: str | None = None
        self._from = spooler.text
        self._seamed = prepared.strategy is None

    @property
    def said(self) -> bool:
        """Whether anything came that was paid for."""
        return self._chunks > 0

    async def receive(self) -> Finish:
        """Append what comes until the proven end; the attempt is put on record in any case.

        Raises StreamError for every other end, `Refused` when it cannot be joined.
        """
        outcome, failure, finish = "given_back", None, None
        try:
            finish = await self._read()
            outcome = "length" if finish.reason == "length" else "finished"
        except StreamError as error:
            outcome = "interrupted" if self.opened else "failed"
            failure = Failure(kind=error.kind, message=error.message)
            raise
        except (Refused, SeamForbiddenError):
            outcome = "refused"
            raise
        else:
            return finish
        finally:
            self._settle_tokens(finish)
            self._record(outcome, failure, finish)

    async def _read(self) -> Finish:
        source = self._site.source
        self._reckoned = self._site.gate.asked(self._prepared.ask)
        with Live(self._parts.watch) as live:
            self._spooler.live = live
            try:
                async with contextlib.aclosing(source.stream(self._prepared.ask)) as events:
                    async for event in events:
                        if type(event) is Delta:
                            await self._take(event, live)
                        elif isinstance(event, Opened):
                            self._open(event)
                        elif isinstance(event, Finish):
                            self._end_join()
                            return event
            finally:
                self._spooler.live = None
        msg = "the source ended without a finish and without an error"
        raise AssertionError(msg)  # the port's contract forbids it

    def _open(self, event: Opened) -> None:
        self.opened = True
        self._request_id = event.request_id
        self._site.gate.answered(event.headers)
        if self._prepared.rebilled:
            self._spooler.count(rebilled=self._prepared.rebilled, estimated=True)

    async def _take(self, delta: Delta, live: Live) -> None:
        spooler, parts = self._spooler, self._parts
        if self._first_token_s is None:
            self._first_token_s = time.monotonic() - self.asked_at
            self._site.gate.spoke()
            if self._prepared.strategy is Resume.RESTART:
                live.pause()
                await self._begin_edition()
                live.unpause()
        self._chunks += delta.chunks
        self._bytes += len(delta.data)
        live.progress()
        if not self._seamed:
            joined = await self._joined(delta)
            if joined is None:
                return
            delta = joined
        if delta.kind is Kind.TEXT:
            self.text += len(delta.data)
        spooler.add(delta)
        parts.journal.touch(spooler)
        if spooler.lost:
            raise ClaimLostError
        if spooler.is_full or parts.budget.is_full:
            live.pause()
            await spooler.room()
            await parts.budget.room()
            live.unpause()

    async def _joined(self, delta: Delta) -> Delta | None:
        """Pass a delta through the join; None while it is held, swallowed, or nothing is left."""
        if self._join is None:
            self._make_seam()
            return delta
        if delta.kind is not Kind.TEXT:
            return self._beside(delta, self._join)
        data = await self._join.feed(delta.data)
        if not data:
            self._kept_whole = False
            self._spooler.count(generated=delta.chunks)
            return None
        self._make_seam()
        return Delta(kind=Kind.TEXT, data=data, chunks=delta.chunks)

    def _beside(self, delta: Delta, join: Join) -> Delta | None:
        """Hold what is no text until the seam: a refused answer must leave nothing."""
        replays = self._prepared.strategy is Resume.REPLAY
        if replays and join.decided:
            return delta
        self._spooler.count(generated=delta.chunks)
        self._held_bytes += len(delta.data)
        # In a replay it repeats what is saved.
        if replays or self._held_bytes > HELD_BYTES:
            self._kept_whole = False
        else:
            self._held.append(delta)
        return None

    def _release(self) -> None:
        """Append what was held beside the text; its tokens were counted as generated then."""
        held, self._held = self._held, []
        for delta in held:
            self._spooler.count(needed=delta.chunks)
            self._spooler.add(Delta(kind=delta.kind, data=delta.data, chunks=0))
        if held:
            self._parts.journal.touch(self._spooler)

    def _end_join(self) -> None:
        """Append what the join still held at the answer's proper end."""
        if self._join is None or self._seamed:
            return
        data = self._join.finish()
        self._make_seam()
        if data:
            # Its tokens were counted as generated while it was held.
            self._spooler.add(Delta(kind=Kind.TEXT, data=data, chunks=0))
            self.text += len(data)
            self._parts.journal.touch(self._spooler)

    def _make_seam(self) -> None:
        """Put the seam on record, just before the first byte behind it."""
        self._seamed = True
        prepared, join = self._prepared, self._join
        verified = join.verified if join else True
        if self._spooler.job.on_seam == "fail" and not verified:
            raise SeamForbiddenError
        if prepared.strategy is None:
            return
        self._spooler.mark(strategy=prepared.strategy.value)
        self._spooler.note(
            seam=Seam(
                edition=self._spooler.head.edition,
                offset=self._spooler.text,
                strategy=prepared.strategy,
                cause=prepared.cause,
                overlap=join.overlap if join else 0,
                verified=verified,
                rebilled=prepared.rebilled,
            )
        )
        self._release()

    async def _begin_edition(self) -> None:
        """Give up the old text only now, with an answer in hand; it is kept until pruned."""
        await self._parts.journal.settle(self._spooler)
        self._spooler.new_edition()
        self._from = 0

    def _settle_tokens(self, finish: Finish | None) -> None:
        """Correct the count by what was reported, or by the bytes where a chunk held many."""
        reported = finish.usage.completion if finish and finish.usage else None
        if reported:
            more, estimated = reported - self._chunks, False
        else:
            many = self._chunks and self._bytes / self._chunks > CHUNK_BYTES
            more = self._bytes // BYTES_PER_TOKEN - self._chunks if many else 0
            estimated = bool(self._chunks)
        if more or estimated:
            needed = more if self._kept_whole and not self._held else 0
            self._spooler.count(generated=more, needed=needed, estimated=estimated)
        self.tokens = self._chunks + more
        self._site.gate.used(
            self._prepared.ask,
            reckoned=self._reckoned,
            prompt=finish.usage.prompt if finish and finish.usage else None,
            output=self.tokens if self.opened else None,
        )

    def _record(self, outcome: str, failure: Failure | None, finish: Finish | None) -> None:
        strategy = self._prepared.strategy
        self._spooler.note(
            attempt=Attempt(
                strategy=strategy.value if strategy else "",
                started_at=self._begun,
                ended_at=time.time(),
                outcome=outcome,
                failure=failure,
                edition=self._spooler.head.edition,
                from_offset=self._from,
                to_offset=self._spooler.text,
                first_token_s=self._first_token_s,
                request_id=self._request_id,
                generated=self.tokens,
                rebilled=self._prepared.rebilled if self.opened else 0,
                skipped=finish.skipped if finish else 0,
            )
        )
