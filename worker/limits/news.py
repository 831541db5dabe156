"""What a worker found out about an endpoint since it last told the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.limits.quota import Quota


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

    @property
    def is_urgent(self) -> bool:
        """Whether the others should know at once."""
        return self.restart or self.pause_until > 0 or self.cut_asked_at is not None
