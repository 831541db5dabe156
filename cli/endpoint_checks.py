"""What `doctor` asks an endpoint: address, key, model, one small answer, and how it resumes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from cli.checks import Check, State, Tell
from pipeline.ports import Ask, Delta, Finish
from pipeline.sources.chat import ChatSource
from pipeline.sources.models import knows_model, list_models
from pipeline.sources.probe import SURE_BYTES, probe
from pipeline.sources.settings import SourceSettings
from pipeline.sources.ticks import Unpaced
from tokenspool.errors import TRAITS, ErrorKind, StreamError, Unavailable
from tokenspool.model import Endpoint, Kind
from tokenspool.profiles import Profile
from worker.wiring import key_for

#: Tokens of the small answer: enough text to be cut in two for the probe, and next to no money.
_TOKENS = 64
_BODY = {
    "messages": [
        {"role": "user", "content": "Write a plain sentence of about forty words on a river."}
    ]
}
#: Less text cannot be cut so that going on and beginning anew look different.
_PROBE_CHARS = 64 + 2 * SURE_BYTES
_LIMIT_S = 120.0
_NAMED = 5


@dataclass(slots=True, kw_only=True)
class _Answer:
    """What the small request brought."""

    text: str = ""
    first_s: float | None = None
    chunks: int = 0
    finish: str = ""


class EndpointDoctor:
    """Asks one question after the other and stops where the next makes no sense."""

    def __init__(
        self, endpoint: Endpoint, profile: Profile, settings: SourceSettings, tell: Tell
    ) -> None:
        """`tell` is handed each check as soon as it is known."""
        self._endpoint = endpoint
        self._profile = profile
        self._settings = settings
        self._tell = tell
        self._key = ""

    async def look(self) -> None:
        """Ask all there is to ask."""
        if self._has_key() and await self._has_model():
            source = ChatSource(
                self._endpoint, api_key=self._key, pace=Unpaced(), settings=self._settings
            )
            try:
                answer = await self._answers(source)
                if answer is not None:
                    await self._resumes(source, answer)
            finally:
                await source.close()

    def _has_key(self) -> bool:
        env = self._endpoint.api_key_env
        try:
            self._key = key_for(self._endpoint)
        except Unavailable as error:
            self._say("key", str(error), failed=True, action=f"set the environment variable {env}")
            return False
        return True

    async def _has_model(self) -> bool:
        """Tell from the list of models whether address, key and model are right; True to go on."""
        began = time.monotonic()
        names: list[str] = []
        try:
            names = await list_models(self._endpoint, api_key=self._key, settings=self._settings)
        except StreamError as error:
            if error.kind is ErrorKind.AUTH:
                self._refused("key", error)
                return False
            if error.kind is ErrorKind.CONNECT and error.status is None:
                self._refused("endpoint", error)
                return False
        took = 1000 * (time.monotonic() - began)
        self._say("endpoint", f"{self._endpoint.url} answers in {took:.0f} ms")
        return await self._knows_model(names)

    async def _knows_model(self, names: list[str]) -> bool:
        """Tell whether the model is there; True when it may be asked."""
        model, some = self._endpoint.model, ", ".join(names[:_NAMED]) or "no list"
        if not model:
            found = f"none is named; the endpoint has: {some}"
            self._say("model", found, warning=True, action="name one: --model NAME")
            return False
        try:
            known = await knows_model(self._endpoint, api_key=self._key, settings=self._settings)
        except StreamError:
            known = None
        if known is False:
            found = f"{self._endpoint.url} has no model {model!r}"
            self._say("model", found, failed=True, action=f"name one that it has: {some}")
            return False
        self._say("model", model if known else f"{model}; the endpoint does not say if it has it")
        return True

    async def _answers(self, source: ChatSource) -> _Answer | None:
        """Ask a small question; give the answer when there is one."""
        answer = _Answer()
        began = time.monotonic()
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._read(source, answer, began)
        except StreamError as error:
            self._refused("stream", error)
            return None
        except TimeoutError:
            found = f"no whole answer of {_TOKENS} tokens within {_LIMIT_S:g} s"
            self._say("stream", found, failed=True, action="look at the server's load and log")
            return None
        if answer.first_s is None:
            found = f"an answer without text (finish {answer.finish})"
            self._say(
                "stream", found, warning=True, action="see what the model does with its tokens"
            )
            return None
        first, whole = 1000 * answer.first_s, time.monotonic() - began
        self._say(
            "stream",
            f"first token after {first:.0f} ms, {answer.chunks} chunks in {whole:.1f} s,"
            f" finish {answer.finish}",
        )
        return answer

    async def _read(self, source: ChatSource, answer: _Answer, began: float) -> None:
        text: list[bytes] = []
        ask = Ask(body=_BODY | {"model": self._endpoint.model}, limit=_TOKENS)
        async with contextlib.aclosing(source.stream(ask)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    answer.finish = event.reason
                elif isinstance(event, Delta):
                    answer.chunks += event.chunks
                    if answer.first_s is None:
                        answer.first_s = time.monotonic() - began
                    if event.kind is Kind.TEXT:
                        text.append(event.data)
        answer.text = b"".join(text).decode(errors="replace")

    async def _resumes(self, source: ChatSource, answer: _Answer) -> None:
        """Find out how a cut answer would be taken up again."""
        flags = self._profile.prefill
        if not flags:
            self._say(
                "resume", "by its profile it does not go on from a prefix: continue or restart"
            )
            return
        if len(answer.text) < _PROBE_CHARS:
            self._skip("resume", "the answer was too short to try it")
            return
        body = _BODY | {"model": self._endpoint.model}
        try:
            async with asyncio.timeout(_LIMIT_S):
                known = (await probe(source, body, answer.text, flags=flags)).known
        except (StreamError, TimeoutError) as error:
            self._skip("resume", f"it could not be tried: {str(error) or 'no answer in time'}")
            return
        if known.resumes_by == "replay":
            self._say(
                "resume", "replay: it gives the same text again, and what is saved is skipped"
            )
        elif known.resumes_by == "none":
            found = "it answers anew whatever it is shown: continue or restart"
            action = "seams are marked unverified; --resume restart avoids them at a price"
            self._say("resume", found, warning=True, action=action)
        else:
            proof = "byte by byte" if known.deterministic else "by its words; it samples"
            self._say("resume", f"prefill with {known.resumes_by}, proven {proof}")

    def _refused(self, name: str, error: StreamError) -> None:
        self._say(name, error.message, failed=True, action=TRAITS[error.kind].action)

    def _skip(self, name: str, found: str) -> None:
        self._tell(Check(name=name, state="skipped", found=found))

    def _say(
        self,
        name: str,
        found: str,
        *,
        failed: bool = False,
        warning: bool = False,
        action: str = "",
    ) -> None:
        state: State = "failed" if failed else "warning" if warning else "ok"
        self._tell(Check(name=name, state=state, found=found, action=action))
