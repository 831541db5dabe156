"""Any order of runs, cuts, crashes, thefts, drains and restarts: the text is whole or it says so.

The endpoint speaks only when it is allowed to and the journal beats only when it is told, so every
moment at which a process can die is a moment that can be chosen. A stolen engine is kept alive,
like a process that was suspended, and goes on later as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pipeline import runner as runner_module
from pipeline.parts import Parts, Site
from pipeline.ports import Ask, Delta, Event
from pipeline.runner import run_job
from pipeline.sources.scripted import Cut, Script, ScriptedSource, cut_after
from tests.unit.pipeline.bench import Bench, numbered, places
from tokenspool import tables as t
from tokenspool.errors import ErrorKind
from tokenspool.model import Completed, Ending, Job, JobState, Kind, Prefill
from tokenspool.store import actions, claims, publishing
from tokenspool.store.actions import Chosen
from tokenspool.store.counts import Tally
from tokenspool.store.endpoints import Known
from tokenspool.store.text import text_length

TOKENS = 60
ALL = 10_000
CUTS = st.lists(
    st.one_of(
        st.none(),
        st.builds(
            cut_after,
            st.integers(0, TOKENS),
            st.sampled_from(
                [ErrorKind.NETWORK, ErrorKind.INCOMPLETE, ErrorKind.MALFORMED, ErrorKind.SERVER]
            ),
        ),
        st.builds(cut_after, st.just(-1), st.sampled_from([ErrorKind.CONNECT, ErrorKind.SERVER])),
    ),
    max_size=4,
)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What the endpoint does, and what is known of it."""

    goes_on: bool
    samples: bool = False
    known: Known = field(default_factory=Known)
    resume: str = "auto"


MODES = {
    "goes on": Mode(goes_on=True, known=Known(resumes_by="prefix", deterministic=True)),
    "not known yet": Mode(goes_on=True),
    "answers anew": Mode(goes_on=False, known=Known(resumes_by="replay", deterministic=True)),
    "answers anew, not known yet": Mode(goes_on=False),
    "samples and goes on": Mode(
        goes_on=True,
        samples=True,
        known=Known(resumes_by="prefix", deterministic=False),
        resume="prefill",
    ),
    "samples and is restarted": Mode(
        goes_on=False, samples=True, known=Known(resumes_by="none"), resume="restart"
    ),
}


class Gated(ScriptedSource):
    """Says a token only when it is allowed to."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.allowed = 0
        self.waits = False
        self._more = asyncio.Event()

    def allow(self, tokens: int) -> None:
        """Let it say so many more."""
        self.allowed += tokens
        self._more.set()

    async def stream(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """See the port."""
        async with contextlib.aclosing(super().stream(ask)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    await self._permit()
                yield event

    async def _permit(self) -> None:
        while self.allowed <= 0:
            self._more.clear()
            self.waits = True
            await self._more.wait()
        self.waits = False
        self.allowed -= 1


@dataclass
class Run:
    """One engine at work on one claim."""

    context: contextlib.AbstractAsyncContextManager[tuple[Parts, Site]]
    parts: Parts
    site: Site
    source: Gated
    job: Job
    task: asyncio.Task[Ending | None]


class Resuming(RuleBasedStateMachine):
    """One job, and all that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pause_s, runner_module.MAX_PAUSE_S = runner_module.MAX_PAUSE_S, 0.0
        self.loop = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="tokenspool-machine-"))
        self.run: Run | None = None
        self.zombies: list[Run] = []
        self.seen: dict[int, str] = {}
        self.closed: set[int] = set()
        self.epoch = 0
        self.samples = 0

    # --- beginning and end ------------------------------------------------------------------
    @initialize(mode=st.sampled_from(sorted(MODES)), cap=st.sampled_from([None, 7, 25]))
    def enqueue(self, mode: str, cap: int | None) -> None:
        """Enqueue the job."""
        self.mode, self.cap = MODES[mode], cap
        if not self.mode.goes_on:
            self.cap = None  # a server's limit cannot be passed by answers made anew
        self.bench = Bench(
            self.folder,
            Script(tokens=lambda _: []),
            known=self.mode.known,
            flags=(Prefill.PREFIX,),
            beat_s=3600.0,
        )
        self.bench.enqueue(resume=self.mode.resume, max_attempts=99)
        with self.bench.database.write() as connection:
            tally = Tally()
            tally.move(1, None, JobState.PENDING)
            tally.write(connection)

    def teardown(self) -> None:
        """Bring it to its end, whatever happened: that is possible, and the end is right."""
        try:
            if hasattr(self, "bench"):
                self._bring_to_its_end()
        finally:
            self._leave()

    def _bring_to_its_end(self) -> None:
        while self.zombies:
            self._wake(self.zombies.pop())
        if self.run is not None:
            self._crash(self.run)
        for _ in range(10):
            if self._state() in {"failed", "cancelled"}:
                actions.resume(self.bench.database, Chosen(job_id=1), who="test")
            if self._state() == "done":
                break
            if self._state() == "complete":
                self._publish_by_another()
                continue
            self._start([], cap=None)
            self._finish()
            if self.run is not None and self._state() == "complete":
                self._publish(self.run)
        assert self._state() == "done"
        self.holds()
        assert places(self.bench.file()) == list(range(TOKENS))

    def _leave(self) -> None:
        runner_module.MAX_PAUSE_S = self.pause_s
        for run in [*self.zombies, *([self.run] if self.run else [])]:
            self._abandon(run)
        self.loop.close()
        if hasattr(self, "bench"):
            self.bench.database.close()
        shutil.rmtree(self.folder)

    # --- what can happen --------------------------------------------------------------------
    @precondition(lambda self: self.run is None and self._state() in {"pending", "waiting"})
    @rule(cuts=CUTS)
    def starts(self, cuts: list[Cut | None]) -> None:
        """Let a worker claim the job."""
        self._start(cuts, cap=self.cap)

    @precondition(lambda self: self.run is not None)
    @rule(tokens=st.integers(1, 25), beats=st.booleans())
    def says(self, tokens: int, beats: bool) -> None:
        """Let the endpoint say something; committed or not."""
        assert self.run is not None
        self.run.source.allow(tokens)
        self._turn(self.run, beats=beats)

    @precondition(lambda self: self.run is not None)
    @rule()
    def finishes(self) -> None:
        """Let the claim come to its ending."""
        self._finish()

    @precondition(lambda self: self.run is not None)
    @rule()
    def falls_silent(self) -> None:
        """Let the watchdogs find the stream overdue."""
        assert self.run is not None
        self.run.parts.watch.look(time.monotonic() + 1e6)
        self._turn(self.run, beats=True)

    @precondition(lambda self: self.run is not None)
    @rule()
    def drains(self) -> None:
        """Send SIGTERM: what came is committed and the job given back."""
        assert self.run is not None
        self.run.task.cancel()
        self._work(self.run)
        self._ended(self.run)

    @precondition(lambda self: self.run is not None)
    @rule()
    def crashes(self) -> None:
        """Send SIGKILL: what was not committed is gone."""
        assert self.run is not None
        self._crash(self.run)

    @precondition(lambda self: self.run is not None and len(self.zombies) < 3)
    @rule()
    def is_stolen(self) -> None:
        """Take the worker for dead, though it lives."""
        assert self.run is not None
        self.zombies.append(self.run)
        self.run = None
        self._reclaim()

    @precondition(lambda self: self.zombies)
    @rule()
    def zombie_goes_on(self) -> None:
        """Let it find that it has lost: it changes nothing."""
        self._wake(self.zombies.pop())

    @precondition(lambda self: self._state() not in {"done", "failed", "cancelled"})
    @rule()
    def is_cancelled(self) -> None:
        """Let somebody else take it away, running or not."""
        actions.cancel(self.bench.database, Chosen(job_id=1), who="test")
        if self.run is not None:
            self.zombies.append(self.run)
            self.run = None

    @precondition(lambda self: self._state() in {"failed", "cancelled"})
    @rule(restart=st.booleans())
    def is_resumed(self, restart: bool) -> None:
        """Let a person want it after all."""
        actions.resume(self.bench.database, Chosen(job_id=1), who="test", restart=restart)

    @precondition(lambda self: self.run is None and self._state() == "complete")
    @rule()
    def is_published_by_another(self) -> None:
        """Publish what a worker completed that is gone."""
        self._publish_by_another()

    @precondition(lambda self: self._state() == "done")
    @rule()
    def rests(self) -> None:
        """Nothing more happens by itself."""

    # --- what always holds ------------------------------------------------------------------
    @invariant()
    def holds(self) -> None:
        """Compare everything that is on disk with what it must be."""
        if not hasattr(self, "bench"):
            return
        checkpoint = next(iter(self.bench.rows("checkpoint")), None)
        if checkpoint is not None:
            self._text_only_grew(checkpoint["edition"])
            with self.bench.database.read() as connection:
                length = text_length(connection, 1, edition=checkpoint["edition"], kind=Kind.TEXT)
            assert length == checkpoint["text"]
            assert checkpoint["epoch"] == self.bench.row("job", 1)["epoch"]
        self._counts_agree(checkpoint)
        edition = checkpoint["edition"] if checkpoint else 1
        published = self.folder / "out" / "job.md"
        assert published.exists() == (self._state() == "done")
        if published.exists():
            assert self.bench.file() == self.bench.text(edition=edition)
            assert self.bench.row("job", 1)["bytes"] == len(published.read_bytes())

    def _text_only_grew(self, newest: int) -> None:
        for edition in range(1, newest + 1):
            text = self.bench.text(edition=edition)
            said = places(text)
            assert said == list(range(len(said))), f"edition {edition}"
            if not self.mode.samples:
                assert "".join(numbered(TOKENS)).startswith(text)
            before = self.seen.get(edition, "")
            assert text.startswith(before), f"edition {edition} changed"
            assert edition not in self.closed or text == before, f"edition {edition} went on"
            self.seen[edition] = text
        self.closed |= set(range(1, newest))

    def _counts_agree(self, checkpoint: dict[str, Any] | None) -> None:
        c = t.job_count.c
        sums = [sa.func.sum(column) for column in (c.bytes, c.generated, c.needed, c.rebilled)]
        with self.bench.database.read() as connection:
            jobs = connection.execute(sa.select(c.state, sa.func.sum(c.jobs)).group_by(c.state))
            counted = {state: int(number) for state, number in jobs if state and number}
            totals = connection.execute(sa.select(*sums)).one()
        assert counted == {self._state(): 1}
        names = ("text", "generated", "needed", "rebilled")
        assert [int(one or 0) for one in totals] == [
            checkpoint[name] if checkpoint else 0 for name in names
        ]

    # --- how ----------------------------------------------------------------------------------
    def _state(self) -> str:
        return str(self.bench.row("job", 1)["state"])

    def _start(self, cuts: list[Cut | None], *, cap: int | None) -> None:
        base, self.samples = self.samples, self.samples + 20
        script = Script(
            tokens=lambda s: numbered(TOKENS, (base + s) if self.mode.samples else 0),
            honours=frozenset(Prefill) if self.mode.goes_on else frozenset(),
            samples=True,
            cuts=cuts,
            cap=cap,
        )
        self.loop.run(self._begin(script))

    async def _begin(self, script: Script) -> None:
        source = Gated(script)
        self.bench.source = source
        context = self.bench.engine()
        parts, site = await context.__aenter__()
        job = self._claim()
        assert job.epoch > self.epoch
        self.epoch = job.epoch
        task = asyncio.ensure_future(run_job(job, parts, site))
        self.run = Run(context, parts, site, source, job, task)

    def _claim(self) -> Job:
        with self.bench.database.write() as connection:
            connection.execute(sa.update(t.job).where(t.job.c.run_at.is_not(None)).values(run_at=0))
            claims.wake_due(connection)
            (job,) = claims.claim_ready(connection, worker="w", endpoint_id=1, limit=1)
        return job

    def _turn(self, run: Run, *, beats: bool) -> None:
        """Let an engine go on until it waits for the endpoint, or until its end."""

        async def turn() -> None:
            for _ in range(400):
                if run.task.done() or (run.source.waits and run.source.allowed <= 0):
                    break
                if beats:
                    await run.parts.journal.beat()
                await asyncio.sleep(0.0002 if beats else 0)
            if beats:
                await run.parts.journal.beat()

        self.loop.run(turn())

    def _work(self, run: Run) -> None:
        """Let an engine go on to the end of its claim."""

        async def work() -> None:
            while not run.task.done():
                await run.parts.journal.beat()
                await asyncio.sleep(0.0002)

        self.loop.run(asyncio.wait_for(work(), 20))

    def _finish(self) -> None:
        assert self.run is not None
        run = self.run
        run.source.allow(ALL)
        self._work(run)
        self._ended(run)

    def _ended(self, run: Run) -> None:
        """Publish a complete job, and leave the engine."""
        ending = run.task.result()
        assert ending is not None, "it lost the claim to nobody"
        assert run.parts.budget.used == 0
        if isinstance(ending, Completed):
            self._publish(run)
        self.bench.known = run.site.known
        self._abandon(run)
        self.run = None

    def _publish(self, run: Run) -> None:
        published = self.loop.run(asyncio.wait_for(run.parts.delivery.publish(run.job), 20))
        if published is not None:
            with self.bench.database.write() as connection:
                publishing.mark_done(connection, [published])

    def _publish_by_another(self) -> None:
        self._reclaim()
        with self.bench.database.write() as connection:
            (job,) = claims.claim_complete(connection, worker="another", limit=1)
        self.epoch = job.epoch

        async def publish() -> None:
            async with self.bench.engine() as (parts, _):
                parts.delivery.open(job)
                published = await parts.delivery.publish(job)
                assert published is not None
                with self.bench.database.write() as connection:
                    publishing.mark_done(connection, [published])

        self.loop.run(publish())

    def _crash(self, run: Run) -> None:
        self._abandon(run)
        self.run = None
        self._reclaim()

    def _reclaim(self) -> None:
        with self.bench.database.write() as connection:
            claims.reclaim(connection, dead=None, max_crashes=99)

    def _wake(self, run: Run) -> None:
        """Let a zombie go on as if nothing had happened."""
        before = self._everything()
        row = self.bench.row("job", 1)
        stood = (row["state"], row["epoch"]) == ("complete", run.job.epoch)
        run.source.allow(ALL)
        self._work(run)
        ending = run.task.result()
        assert run.parts.budget.used == 0
        if isinstance(ending, Completed):
            self._publish(run)
        self._abandon(run)
        if stood:
            # Complete before it was robbed, and nobody else has come: it may go on to the end.
            assert self._state() == "done"
        else:
            assert self._everything() == before

    def _everything(self) -> list[Any]:
        return [
            *(
                self.bench.rows(name)
                for name in ("job", "checkpoint", "segment", "attempt", "seam")
            ),
            (self.folder / "out" / "job.md").exists(),
        ]

    def _abandon(self, run: Run) -> None:
        """Drop an engine without letting it settle anything."""

        async def drop() -> None:
            while not run.task.done():
                run.task.cancel()
                await asyncio.sleep(0.0002)
            await run.context.__aexit__(None, None, None)

        self.loop.run(drop())


class ResumingLong(Resuming):
    """The same, for as long as a soak may take."""


Resuming.TestCase.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
ResumingLong.TestCase.settings = settings(max_examples=1500, stateful_step_count=25, deadline=None)
#: Its steps race real threads, so a failing example may not replay: hypothesis calls that flaky.
TestResuming = pytest.mark.soak(pytest.mark.timeout(300)(Resuming.TestCase))
TestResumingLong = pytest.mark.soak(pytest.mark.timeout(1800)(ResumingLong.TestCase))
