"""Asking the endpoint before anything is enqueued: whether it takes the key and knows the model."""

from __future__ import annotations

import asyncio

from pipeline.sources.models import knows_model, list_models
from pipeline.sources.settings import SourceSettings
from tokenspool.errors import ErrorKind, StreamError, Unavailable, UsageError
from tokenspool.model import Endpoint
from tokenspool.settings import Settings
from tokenspool.store.intake.options import checked_url
from worker.wiring import key_for

#: Names given when a model is not known; gateways list hundreds.
_NAMED = 10


class Preflight:
    """Checks models one by one, and stops asking once nobody answers."""

    def __init__(self, settings: Settings) -> None:
        """Ask the endpoint that the settings name."""
        self._url = checked_url(settings.base_url)
        self._key_env = settings.key_env(settings.base_url)
        self._source = SourceSettings(connect_timeout_s=settings.connect_timeout_s)
        #: Why nobody knows whether the endpoint takes the jobs; empty when it said.
        self.silence = ""

    def check(self, model: str) -> None:
        """Return when jobs may be enqueued for `model`, as far as anybody can tell.

        Raises `UsageError` for a model that the endpoint does not have, and `Unavailable` for a key
        that it refuses. An endpoint that is away, or does not say, stops nothing: jobs wait for it.
        """
        if self.silence:
            return
        endpoint = Endpoint(url=self._url, model=model, api_key_env=self._key_env)
        key = key_for(endpoint)
        try:
            known = asyncio.run(knows_model(endpoint, api_key=key, settings=self._source))
        except StreamError as error:
            why = error.message.rstrip(".")
            if error.kind is ErrorKind.AUTH:
                msg = f"{why}; set {self._key_env} to a key that it takes (nothing was enqueued)"
                raise Unavailable(msg) from error
            self.silence = why
            return
        if known is False:
            raise UsageError(self._unknown(endpoint, key))

    def _unknown(self, endpoint: Endpoint, key: str) -> str:
        try:
            names = asyncio.run(list_models(endpoint, api_key=key, settings=self._source))
        except StreamError:
            names = []
        shown = ", ".join(sorted(names)[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        has = f"; it has: {shown}" if names else ""
        return f"{self._url} has no model {endpoint.model!r}{has} (nothing was enqueued)"
