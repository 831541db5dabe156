"""One job, from claim to ending: ask, receive, and go on from the last saved position.

    claim -> answer -> (cut? again at once, later, never) -> answer -> ... -> ending -> commit

Whatever happens in here, the checkpoint stands: the worst that an exception or a death can do
is make the next claim go on from it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from pipeline.answer import Answer, Prepared, SeamForbiddenError
from pipeline.joining import AnsweredAnewError, DiffersError, Refused
from pipeline.parts import Parts, Site
from pipeline.planner import Planner
from pipeline.ports import Finish
from pipeline.retry import Again, Standing, decide
from pipeline.spooler import ClaimLostError, Spooler
from tokenspool.errors import TRAITS, Cost, ErrorKind, StreamError, TokenspoolError
from tokenspool.model import Completed, Ending, Failure, GaveUp, GivenBack, Job, Postponed, Resume
from tokenspool.store.text import DamagedError

_log = logging.getLogger(__name__)
#: Answers that end sooner than this do not follow one another without a pause.
QUICK_S = 0.5
MAX_PAUSE_S = 2.0


async def run_job(job: Job, parts: Parts, site: Site) -> Ending | None:
    """Run one claimed job until its ending is durable; None when the claim was lost.

    Cancelling it drains: what was received is committed and the job given back.
    """
    spooler = Spooler(
        job, worker=parts.worker, budget=parts.budget, max_bytes=parts.max_output_bytes
    )
    parts.journal.attach(spooler)
    parts.delivery.open(job)
    run = _Run(job, parts, site, spooler)
    try:
        try:
            ending = await run.answers()
        except asyncio.CancelledError:
            ending = GivenBack(cause="drain")
        except StreamError as error:  # the journal refused this stream's data
            ending = _gave_up(error)
        except DamagedError as error:  # this job's alone; the others' text is whole
            message = f"{error}; `tokenspool resume --restart` begins it anew"
            ending = GaveUp(failure=Failure(kind=ErrorKind.STORAGE, message=message))
        except (TokenspoolError, ClaimLostError):
            raise
        except Exception as error:  # noqa: BLE001 - one job must not end the others
            _log.warning("job_failed job=%d", job.id, exc_info=True)
            message = f"tokenspool could not handle this answer ({type(error).__name__}: {error})"
            ending = GaveUp(failure=Failure(kind=ErrorKind.MALFORMED, message=message[:500]))
        parts.fault("before_ending")
        settling = asyncio.ensure_future(_settle(ending, spooler, parts))
        try:
            ending = await asyncio.shield(settling)
        except asyncio.CancelledError:
            ending = await settling  # it is what a drain asks for; a second one ends it
        parts.fault("after_ending")
    except ClaimLostError:
        parts.delivery.close(job)
        return None
    finally:
        parts.journal.detach(spooler)
    if not isinstance(ending, Completed):
        parts.delivery.close(job)
    return ending


async def _settle(ending: Ending, spooler: Spooler, parts: Parts) -> Ending:
    """Make an ending durable; give another one if the journal refuses the text that it is for."""
    try:
        spooler.end(ending)
        await parts.journal.settle(spooler)
    except StreamError as error:
        ending = _gave_up(error)
        spooler.accept()
        spooler.end(ending)
        await parts.journal.settle(spooler)
    return ending


def _gave_up(error: StreamError) -> GaveUp:
    return GaveUp(failure=Failure(kind=error.kind, message=error.message))


class _Run:
    """The state between the answers of one claim."""

    def __init__(self, job: Job, parts: Parts, site: Site, spooler: Spooler) -> None:
        self._job = job
        self._parts = parts
        self._site = site
        self._spooler = spooler
        self._planner = Planner(job, parts, site, spooler)
        self._quick = 0

    async def answers(self) -> Ending:
        """Ask until there is an ending."""
        cause = self._job.cause
        if self._spooler.text and not cause:
            cause = "crash"
        if self._is_retry(cause) and not self._site.gate.may_retry():
            message = "its endpoint fails so often that this try has to wait"
            failure = Failure(kind=ErrorKind(cause), message=message)
            return Postponed(failure=failure, delay_s=self._parts.retry.turn_s())
        is_first = True
        while True:
            # The claim itself brought leave for the first request.
            if not is_first and not await self._site.gate.again():
                return GivenBack(cause=cause)
            is_first = False
            furthest = max(self._spooler.head.furthest, self._spooler.text)
            try:
                prepared = await self._planner.prepare(cause)
            except StreamError as error:  # the probe could not be asked
                following: Ending | Again = self._unprepared(error)
                if not isinstance(following, Again):
                    return following
                continue
            if not isinstance(prepared, Prepared):
                return prepared
            following, cause = await self._answer(prepared, furthest)
            if not isinstance(following, Again):
                return following

    def _is_retry(self, cause: str) -> bool:
        """Tell whether the last claim's answer failed and brought nothing: to go on is no retry."""
        if cause not in set(ErrorKind):
            return False
        cost = TRAITS[ErrorKind(cause)].cost
        return cost is Cost.ATTEMPT or (cost is Cost.STALL and self._spooler.head.stalls > 0)

    async def _answer(self, prepared: Prepared, furthest: int) -> tuple[Ending | Again, str]:
        """Receive one answer; give what follows, and the cause if it is another answer."""
        answer = Answer(prepared, self._spooler, self._parts, self._site)
        begun = time.monotonic()
        try:
            finish = await answer.receive()
        except StreamError as error:
            return await self._failed(error, answer, furthest, begun), error.kind.value
        except SeamForbiddenError:
            message = "going on would leave a seam that is not proven (--on-seam fail)"
            failure = Failure(kind=ErrorKind.INCOMPLETE, message=message)
            return GaveUp(failure=failure, spends=False), ""
        except Refused as refusal:
            return await self._refused(refusal, prepared, furthest), prepared.cause
        # Made anew, and at its limit once more no further than before.
        anew = prepared.strategy in {None, Resume.RESTART} and self._spooler.text <= furthest
        stalled = finish.reason == "length" and anew
        self._spooler.mark(stalls=self._spooler.head.stalls + 1 if stalled else 0)
        return self._finished(finish, answer, prepared), "length"

    def _finished(  # noqa: PLR0911 - one return per way to end
        self, finish: Finish, answer: Answer, prepared: Prepared
    ) -> Ending | Again:
        if finish.reason == "content_filter":
            message = "the provider's content filter stopped the answer"
            return GaveUp(failure=Failure(kind=ErrorKind.CONTENT_FILTER, message=message))
        if finish.reason != "length":
            return Completed(finish=finish.reason)
        if not answer.text:
            return self._incomplete("the answer used up its tokens without any visible text")
        if self._planner.budget_is_spent(answer.tokens, prepared):
            return Completed(finish="length")
        stalls = self._spooler.head.stalls
        if stalls >= self._parts.retry.max_stalls:
            return self._incomplete(
                f"{stalls} answers in a row reached the limit at the same place"
            )
        continuations = self._spooler.head.continuations + 1
        if continuations > self._job.max_continuations:
            most = self._job.max_continuations
            return self._incomplete(f"not finished after {most} continuations")
        if self._job.resume in {Resume.REPLAY, Resume.RESTART}:
            how = f"--resume {self._job.resume}"
            return self._incomplete(f"the server's limit was reached; {how} cannot go beyond it")
        self._spooler.mark(continuations=continuations)
        return Again()

    async def _failed(
        self, error: StreamError, answer: Answer, furthest: int, begun: float
    ) -> Ending | Again:
        gained = self._spooler.text > furthest
        stalls = self._spooler.head.stalls
        if gained:
            self._spooler.mark(stalls=0)
        elif answer.said or TRAITS[error.kind].cost is Cost.STALL:
            stalls += 1
            self._spooler.mark(stalls=stalls)
        # What broke off while it spoke tells of now, not of when it was asked.
        asked_at = None if answer.said else answer.asked_at
        self._site.gate.failed(error, asked_at=asked_at)
        if answer.said and not gained and stalls >= self._parts.retry.max_stalls:
            return _gave_up(error)  # whatever the cause: what it said was paid for
        following = self._decide(error, gained=gained)
        if isinstance(following, Again):
            await self._pause(begun)
        return following

    def _unprepared(self, error: StreamError) -> Ending | Again:
        """Decide what follows a probe that failed: it costs as much as any other answer."""
        if TRAITS[error.kind].cost is Cost.STALL:
            self._spooler.mark(stalls=self._spooler.head.stalls + 1)
        self._site.gate.failed(error)
        return self._decide(error, gained=False)

    def _decide(self, error: StreamError, *, gained: bool) -> Ending | Again:
        """Decide what follows; what the endpoint is paused for costs the job nothing."""
        paused = error.code == "model_not_found" or not self._site.gate.is_open
        if paused and TRAITS[error.kind].cost is not Cost.STALL:
            return GivenBack(cause=error.kind.value)
        standing = Standing(
            attempts=self._job.attempts,
            max_attempts=self._job.max_attempts,
            stalls=self._spooler.head.stalls,
            gained=gained,
        )
        return decide(error, standing, self._parts.retry)

    async def _refused(self, refusal: Refused, prepared: Prepared, furthest: int) -> Ending | Again:
        """Try another way after an answer that could not be joined; nothing of it is kept."""
        stalls = self._spooler.head.stalls + 1
        if self._spooler.text > furthest:
            stalls = 0
        self._spooler.mark(stalls=stalls)
        if stalls >= self._parts.retry.max_stalls:
            return self._incomplete(f"{stalls} answers in a row did not go on from the saved text")
        if isinstance(refusal, DiffersError):
            await self._planner.learn_not_deterministic()
        await self._planner.refused(prepared, anew=isinstance(refusal, AnsweredAnewError))
        return Again()

    async def _pause(self, begun: float) -> None:
        """Keep a stream that is cut again and again from asking without a breath."""
        if time.monotonic() - begun >= QUICK_S:
            self._quick = 0
            return
        self._quick += 1
        if self._quick > 1:
            await asyncio.sleep(min(MAX_PAUSE_S, 0.05 * 2**self._quick))

    @staticmethod
    def _incomplete(message: str) -> GaveUp:
        return GaveUp(failure=Failure(kind=ErrorKind.INCOMPLETE, message=message))
