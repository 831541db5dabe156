"""Planning the next request of a job: what is saved, which strategy, what is sent and held back."""

from __future__ import annotations

from dataclasses import replace

from pipeline import resume
from pipeline.answer import Prepared
from pipeline.joining import OPENING_BYTES, Asked, GoingOn, Join, Replaying
from pipeline.parts import Parts, Site
from pipeline.ports import Ask
from pipeline.spooler import Spooler
from pipeline.watch import Live
from tokenspool.model import Completed, Ending, Job, Kind, Prefill, Resume
from tokenspool.store.endpoints import Known

#: An answer this close to what it was allowed reached the limit; counts of ours are estimates.
NEARLY = 0.9


class Planner:
    """Prepares the answers of one claim."""

    def __init__(self, job: Job, parts: Parts, site: Site, spooler: Spooler) -> None:
        """Know the job; nothing is read yet."""
        self._job = job
        self._parts = parts
        self._site = site
        self._spooler = spooler
        self._fallback: Resume | None = None
        self._apart = False

    async def prepare(self, cause: str) -> Prepared | Ending:
        """Prepare the next request, or give the ending when there is nothing left to ask for.

        Raises StreamError when the endpoint has to be probed and cannot be asked now.
        """
        await self._parts.journal.settle(self._spooler)
        limit = self.limit()
        if limit is not None and limit <= 0:
            return Completed(finish="length")
        strategy = await self._strategy(cause)
        ask = Ask(body=self._job.body, limit=limit)
        if strategy is None or strategy is Resume.RESTART:
            if strategy is Resume.RESTART:
                ask = replace(ask, limit=self._budget())
            return Prepared(strategy=strategy, ask=ask, join=None, cause=cause)
        if strategy is Resume.REPLAY:
            join = Replaying(self._fetch, self._spooler.text)
            whole = Ask(body=self._job.body, limit=self._budget())
            return Prepared(strategy=strategy, ask=whole, join=join, cause=cause)
        return await self._going_on(strategy, ask, cause)

    async def refused(self, prepared: Prepared, *, anew: bool) -> None:
        """Choose another way after an answer that could not be joined."""
        if prepared.strategy is Resume.PREFILL and anew and not self._apart:
            # A refrain, or really an answer anew? Ask where the two look different.
            self._apart = True
            return
        if prepared.strategy is Resume.PREFILL and anew and prepared.cause != "length":
            await self._learn(Known(resumes_by="replay", deterministic=True))
            self._fallback = Resume.REPLAY
            return
        assert prepared.strategy is not None  # noqa: S101 - a fresh answer has no join
        saved = self._saved()
        self._fallback = resume.after_refusal(
            self._job.resume, prepared.strategy, saved, cause=prepared.cause
        )
        if self._fallback is prepared.strategy:
            self._fallback = Resume.RESTART

    async def learn_not_deterministic(self) -> None:
        """Remember that the same request gave another text."""
        if self._site.known.resumes_by == "replay":
            await self._learn(Known(resumes_by="none", deterministic=False))

    # --- token budget ------------------------------------------------------------------------
    def limit(self) -> int | None:
        """Tokens that the next answer may have; None leaves the body as it is."""
        budget = self._budget()
        if budget is None or (self._spooler.needed == 0 and self._job.max_output_tokens is None):
            return None
        rest = budget - self._spooler.needed
        own = self._body_limit()
        return rest if own is None else min(rest, own)

    def budget_is_spent(self, tokens: int, prepared: Prepared) -> bool:
        """Tell whether an answer that ended with `length` used up the job's own budget."""
        budget = self._budget()
        if budget is None:
            return False
        if self._spooler.needed >= budget:
            return True
        asked = prepared.ask.limit or self._body_limit() or budget
        reached = asked >= budget - self._spooler.needed + tokens
        return reached and tokens >= NEARLY * asked

    def _budget(self) -> int | None:
        return self._job.max_output_tokens or self._body_limit()

    def _body_limit(self) -> int | None:
        for name in ("max_completion_tokens", "max_tokens"):
            value = self._job.body.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return None

    # --- strategy ----------------------------------------------------------------------------
    def _saved(self) -> resume.Saved:
        offsets = self._spooler.durable.offsets
        text = self._spooler.text
        return resume.Saved(
            text=text,
            other=sum(offsets.values()) - text,
            tokens=self._spooler.needed,
            bound=resume.is_bound(self._job.body, offsets),
        )

    async def _strategy(self, cause: str) -> Resume | None:
        if self._fallback is not None:
            return self._fallback
        saved = self._saved()
        flag = self._site.flags[0] if self._site.flags else None
        chosen = resume.choose(self._job.resume, saved, self._site.known, cause=cause, flag=flag)
        if chosen is not Resume.AUTO:
            return chosen
        await self._probe()
        return resume.choose(self._job.resume, saved, self._site.known, cause=cause, flag=flag)

    async def _probe(self) -> None:
        """Probe the endpoint, once for all jobs that wait for it."""
        async with self._site.probing:
            if self._site.known.resumes_by:
                return
            opening = (await self._fetch(0, min(self._spooler.text, 4096))).decode(errors="ignore")
            with Live(self._parts.watch) as live:
                self._spooler.live = live
                try:
                    finding = await self._site.probe(self._job.body, opening)
                finally:
                    self._spooler.live = None
            self._spooler.count(
                generated=finding.generated, rebilled=finding.rebilled, estimated=True
            )
            await self._learn(finding.known)

    async def _learn(self, known: Known) -> None:
        self._site.known = known
        await self._site.remember(known)

    def _flag(self) -> Prefill | None:
        by = self._site.known.resumes_by
        if by in set(Prefill):
            return Prefill(by)
        return self._site.flags[0] if self._site.flags else None

    # --- requests that go on -------------------------------------------------------------------
    async def _going_on(self, strategy: Resume, ask: Ask, cause: str) -> Prepared:
        length = self._spooler.text
        most = resume.MAX_PREFIX_BYTES if strategy is Resume.PREFILL else resume.MAX_HISTORY_BYTES
        data = await self._fetch(max(0, length - most), length)
        # Cut at `most` we may stand inside a character; only history is ever cut.
        text = data.decode(errors="ignore")
        opening = await self._fetch(0, min(OPENING_BYTES, length))
        tail = ""
        join: Join
        if strategy is Resume.PREFILL:
            split = resume.split_apart(text) if self._apart else resume.split_prefix(text)
            if split is None or not split[0]:  # no place to tell by, or nothing but white space
                return Prepared(
                    strategy=Resume.RESTART,
                    ask=Ask(body=self._job.body, limit=self._budget()),
                    join=None,
                    cause=cause,
                )
            text, tail = split
            proven = self._site.known.resumes_by in set(Prefill)
            join = GoingOn(opening=opening, tail=tail.encode(), proven=proven)
        else:
            join = Asked(opening=opening, end=data)
        turn = resume.turn_for(strategy, text, flag=self._flag())
        if ask.limit is not None and tail:
            # What is held back is made again, and must not be missing at the end.
            ask = replace(ask, limit=ask.limit + len(tail.encode()) // 2 + 1)
        sent = len(text.encode())
        rebilled = self._spooler.needed * sent // max(1, length)
        return Prepared(
            strategy=strategy,
            ask=replace(ask, turn=turn),
            join=join,
            cause=cause,
            rebilled=rebilled,
        )

    async def _fetch(self, start: int, stop: int) -> bytes:
        """Read committed text; the spooler has been settled, so all of it is committed."""
        edition = self._spooler.durable.edition

        def read() -> bytes:
            pieces = self._parts.store.text(
                self._job.id, edition=edition, kind=Kind.TEXT, start=start, stop=stop
            )
            return b"".join(pieces)

        return await self._parts.journal.read(read) if stop > start else b""
