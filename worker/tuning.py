"""What a working process is given, from the settings."""

from __future__ import annotations

from pipeline.retry import RetryPolicy
from pipeline.watch import Timeouts
from tokenspool.database import Database
from tokenspool.settings import Settings
from tokenspool.store.intake.options import checked_url
from worker.clock import Rhythm
from worker.limits.rates import Rates
from worker.wiring import Tuning

#: Schemes of a broker's URL under which Redis answers.
_REDIS = ("redis://", "rediss://")


def tuning(database: Database, settings: Settings) -> Tuning:
    """Give the tuning of a process on this database."""
    # Jobs name an endpoint in one way, a person in any.
    said = {checked_url(one.url): one.url for one in settings.endpoint}
    return Tuning(
        database=database,
        streams=settings.streams,
        budget_bytes=settings.budget_bytes,
        max_event_bytes=settings.max_event_bytes,
        max_output_bytes=settings.max_output_bytes,
        connect_timeout_s=settings.connect_timeout_s,
        timeouts=Timeouts(
            first_byte_s=settings.first_byte_timeout_s,
            idle_s=settings.idle_timeout_s,
            total_s=settings.total_timeout_s,
        ),
        rhythm=Rhythm(
            tick_s=None if settings.tick_s == "auto" else settings.tick_s,
            beat_s=None if settings.beat_s == "auto" else settings.beat_s,
        ),
        retry=RetryPolicy(max_stalls=settings.max_stalls),
        keep=settings.keep == "forever",
        profiles={checked_url(one.url): settings.profile(one.url) for one in settings.endpoint},
        rates=lambda url, model: _rates(settings, said.get(url, url), model),
        limits_url=_limits_url(settings),
    )


def _rates(settings: Settings, url: str, model: str) -> Rates:
    return Rates(
        max_in_flight=settings.limit("max_in_flight", url, model),
        requests_per_minute=settings.limit("requests_per_minute", url, model),
        tokens_per_minute=settings.limit("tokens_per_minute", url, model),
    )


def _limits_url(settings: Settings) -> str | None:
    broker = settings.broker_url or ""
    return settings.limits_url or (broker if broker.startswith(_REDIS) else None)
