"""One answer of the chat wire, put together from its chunks."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.ports import Delta, Finish, Usage
from pipeline.sources.calls import Calls, function_line
from pipeline.sources.chunks import Bad, Choice, Chunk, Part, Tokens, decode_many
from pipeline.sources.failures import Site, clean, error_in_answer, excerpt
from pipeline.sources.finishes import read_finish
from pipeline.sources.runs import Runs
from pipeline.sources.settings import SourceSettings
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Kind

DONE = b"[DONE]"


class Reply:
    """Takes the data of events and gives deltas; knows when the answer ended, and how."""

    def __init__(self, settings: SourceSettings, site: Site) -> None:
        """Begin before the first event."""
        self._settings = settings
        self._site = site
        self._runs = Runs()
        self._calls = Calls()
        #: The first finish reason; a second one changes nothing, unless more text came between.
        self.finish: str | None = None
        #: Has more of the answer come in an event after the finish reason? Some servers put one on
        #: every chunk: it proves nothing then, only `[DONE]` or a clean end of the body does.
        self.late = False
        #: Was `[DONE]` seen? What follows it is ignored.
        self.done = False
        #: What ended the answer before its time; raised once the deltas before it are handed out.
        self.failure: StreamError | None = None
        #: Has anything of the answer come?
        self.begun = False
        #: Events without use: no JSON, or nothing in it.
        self.skipped = 0
        #: Events in which bytes that are no UTF-8 were replaced.
        self.repaired = 0
        self._events = self._bad = self._bad_in_row = 0
        self._prompt = self._completion = self._cached = self._reasoning = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be taken."""
        return self.done or self.failure is not None

    @property
    def fails(self) -> bool:
        """Whether a failure is what ended it: behind a finish reason that holds, none counts."""
        return self.failure is not None and (self.finish is None or self.late)

    def take(self, payloads: Sequence[bytes]) -> list[Delta]:
        """Take the data of events, in order; give what they add to the answer."""
        if not payloads or self.is_over:
            return []
        if DONE in payloads:
            payloads = payloads[: payloads.index(DONE)]
            self._add(decode_many(payloads))
            self.done = self.failure is None
        else:
            self._add(decode_many(payloads))
        return self._cut()

    def take_whole(self, chunk: Chunk) -> list[Delta]:
        """Take a completion that was sent in one document."""
        self._add([chunk])
        return self._cut()

    def rest(self) -> list[Delta]:
        """Give what was held back for its other half, if the answer ended properly.

        Of a cut one it is dropped: the other half comes when the answer is taken up again.
        """
        ended = self.done or (self.finish is not None and not self.fails)
        return self._cut(last=True) if ended else []

    def ending(self) -> Finish:
        """Give the proven end; raises the failure, or that there is no proof."""
        if self.fails and self.failure is not None:
            raise self.failure
        if self.finish is not None:
            return Finish(reason=self.finish, usage=self._usage(), skipped=self.skipped)
        host = self._site.host
        if self.done and self.begun:
            if self._settings.done_is_finish:
                return Finish(reason="unconfirmed", usage=self._usage(), skipped=self.skipped)
            msg = (
                f"{host} ended with [DONE] but gave no finish reason"
                " (set done_is_finish if it never gives one)"
            )
        elif self.begun:
            msg = f"{host} ended the stream in the middle of the answer, without a finish reason"
        else:
            msg = f"{host} ended the stream without an answer"
        raise StreamError(ErrorKind.INCOMPLETE, msg)

    def _cut(self, *, last: bool = False) -> list[Delta]:
        deltas = self._runs.cut(last=last)
        if deltas:
            self.begun = True
        return deltas

    def _add(self, chunks: Sequence[Chunk | Bad]) -> None:  # noqa: C901 - see below
        """Add chunks. Every token goes through this loop: calls are spared."""
        runs = self._runs
        self._events += len(chunks)
        for chunk in chunks:
            if isinstance(chunk, Bad):
                self._note_bad(chunk)
                if self.is_over:
                    return
                continue
            self._bad_in_row = 0
            if chunk.usage is not None:
                self._count(chunk.usage)
            if chunk.choices and not chunk.error:
                choice = chunk.choices[0]
                part = choice.delta
                if part is not None:
                    if part.content:
                        runs.add(Kind.TEXT, part.content)
                        self.late = self.finish is not None
                    # The other fields are null in all but a few chunks.
                    if (
                        part.reasoning_content
                        or part.reasoning
                        or part.refusal
                        or part.tool_calls
                        or part.function_call
                    ):
                        self._add_others(part)
                if choice.finish_reason is not None:
                    self._end(choice)
            else:
                self._note_odd(chunk)
            if chunk.repaired:
                self.repaired += 1
            if self.failure is not None:
                return

    def _add_others(self, part: Part) -> None:
        self.late = self.finish is not None
        # Some servers send the same thought under both names.
        if thought := part.reasoning_content or part.reasoning:
            self._runs.add(Kind.REASONING, thought)
        if part.refusal:
            self._runs.add(Kind.REFUSAL, part.refusal)
        for call in part.tool_calls or ():
            self._runs.add(Kind.TOOL, self._calls.line(call))
        if part.function_call:
            self._runs.add(Kind.TOOL, function_line(part.function_call))

    def _end(self, choice: Choice) -> None:
        reason = clean(choice.finish_reason or "", self._site.secret)
        found = read_finish(reason)
        if found is None or (self.finish is not None and not self.late):
            return
        if isinstance(found, ErrorKind):
            msg = f"{self._site.host} stopped the answer (finish reason {reason!r})"
            self.failure = StreamError(found, msg)
        else:
            self.finish = found

    def _note_odd(self, chunk: Chunk) -> None:
        """Take a chunk without choices: an error, the usage, or nothing."""
        if chunk.error and (self.finish is None or self.late):
            self.failure = error_in_answer(chunk.error, self._site)
        elif chunk.usage is None and not chunk.error:
            self.skipped += 1

    def _note_bad(self, bad: Bad) -> None:
        payload = bad.payload.strip()
        if payload.startswith(DONE):
            self.done = True
            return
        if not payload:
            return
        self.skipped += 1
        self._bad += 1
        self._bad_in_row += 1
        most = self._settings.max_malformed
        if self._bad_in_row > most or self._bad > most + self._events // 4:
            shown = excerpt(payload, self._site.secret)[:80]
            msg = f"{self._site.host} sent {self._bad} events that are no objects: {shown}"
            self.failure = StreamError(ErrorKind.MALFORMED, msg)

    def _count(self, tokens: Tokens) -> None:
        """Keep the last numbers that are not zero: interim ones grow, some final ones are empty."""
        self._prompt = tokens.prompt_tokens or self._prompt
        self._completion = tokens.completion_tokens or self._completion
        if tokens.prompt_tokens_details is not None:
            self._cached = tokens.prompt_tokens_details.cached_tokens or self._cached
        if tokens.completion_tokens_details is not None:
            details = tokens.completion_tokens_details
            self._reasoning = details.reasoning_tokens or self._reasoning

    def _usage(self) -> Usage | None:
        if not (self._prompt or self._completion):
            return None
        return Usage(
            prompt=self._prompt or None,
            completion=self._completion or None,
            cached=self._cached or None,
            reasoning=self._reasoning or None,
        )
