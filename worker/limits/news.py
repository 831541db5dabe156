"""What a worker found out about an endpoint since it last told the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.limits.quota import Quota

#: Answers that are told of at once; hours of them say no more than a thousand.
MOST_ANSWERED = 1000


@dataclass(slots=True, kw_only=True)
class News:
    """Gathers until it is told. Times are of the worker's own clock, in seconds."""

    #: Requests that were accepted.
    answered: int = 0
    #: When the newest request was sent that was refused as too many, and how many were in flight.
    cut_asked_at: float | None = None
    cut_held: int = 0
    #: Did nothing at all go through?
    restart: bool = False
    pause_until: float = 0.0
    #: Tokens used beyond what was reckoned; less is negative.
    used: float = 0.0
    #: Permits for requests that were not made.
    unused: int = 0
    quota: Quota = field(default_factory=Quota)

    def then(self, later: News) -> News:
        """Give these and later ones as one: of what was said twice the newest counts."""
        cuts = [at for at in (self.cut_asked_at, later.cut_asked_at) if at is not None]
        return News(
            answered=min(self.answered + later.answered, MOST_ANSWERED),
            cut_asked_at=max(cuts, default=None),
            cut_held=max(self.cut_held, later.cut_held),
            restart=self.restart or later.restart,
            pause_until=max(self.pause_until, later.pause_until),
            used=self.used + later.used,
            unused=self.unused + later.unused,
            quota=Quota(
                requests=later.quota.requests or self.quota.requests,
                tokens=later.quota.tokens or self.quota.tokens,
            ),
        )

    @property
    def is_urgent(self) -> bool:
        """Whether the others should know at once."""
        return self.restart or self.pause_until > 0 or self.cut_asked_at is not None
