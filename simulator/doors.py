"""The simulator's doors: which path leads where."""

from __future__ import annotations

import itertools
import urllib.parse
from collections.abc import Iterator

import msgspec

from simulator.chat import Chat
from simulator.counts import Counts, Record
from simulator.flow import Delivery
from simulator.models import all_models, one_model
from simulator.refusal import Refusal
from simulator.settings import SimSettings
from simulator.steps import Raw, Send, Steps
from simulator.wire import Reply, Request, head

#: A text is sent in pieces of so many tokens.
_PIECE_TOKENS = 4096
_ONE_MODEL = "/v1/models/"


class Doors:
    """Leads requests to what answers them."""

    def __init__(self, settings: SimSettings) -> None:
        self._settings = settings
        self.counts = Counts(keep=settings.keep)
        self._chat = Chat(settings, self.counts)

    def open(self, request: Request) -> Reply | Delivery:
        """Answer a request. Raises Refusal."""
        if request.path.startswith("/v1/"):
            self._check_key(request)
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                return self._chat.answer(request)
            case "GET", "/v1/models":
                return Reply(body=all_models(self._settings))
            case "GET", path if path.startswith(_ONE_MODEL):
                name = urllib.parse.unquote(path.removeprefix(_ONE_MODEL))
                return Reply(body=one_model(name, self._settings))
            case _, path if path.startswith("/sim/"):
                return self._sim(request)
            case _:
                raise Refusal(404, f"there is no {request.method} {request.path} here")

    def _sim(self, request: Request) -> Reply | Delivery:
        match request.method, request.path:
            case "GET", "/sim/stats":
                return Reply(body=msgspec.json.encode(self.counts.stats()))
            case "GET", "/sim/requests":
                return Reply(body=msgspec.json.encode(self.counts.recent(_last(request.query))))
            case "POST", "/sim/reset":
                self.counts.reset()
                self._chat.reset()
                return Reply(body=b"{}")
            case "POST", "/sim/text":
                return _text(self._chat.text(request))
            case _:
                raise Refusal(404, f"there is no {request.method} {request.path} here")

    def _check_key(self, request: Request) -> None:
        key = self._settings.api_key
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            raise Refusal(401, "Incorrect API key provided: it is not the one that was set.")


def _last(query: str) -> int:
    told = urllib.parse.parse_qs(query).get("last", ["1000"])[0]
    if not told.isdecimal():
        raise Refusal(400, f"last={told} is no number", param="last")
    return int(told)


def _text(tokens: Iterator[bytes]) -> Delivery:
    """Send a text of any length; it counts as nobody's request."""

    def steps() -> Steps:
        yield Raw(
            head(200, {"content-type": "text/plain; charset=utf-8", "transfer-encoding": "chunked"})
        )
        while piece := b"".join(itertools.islice(tokens, _PIECE_TOKENS)):
            yield Send(piece)

    record = Record(number=0, model="", question="", kind="text", stream=True, prefix_bytes=0)
    return Delivery(steps=steps(), record=record, chunked=True, is_counted=False)
