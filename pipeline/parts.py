"""What one job's run is given; made in the worker's wiring, by hand in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.budget import Budget
from pipeline.journal import Journal
from pipeline.ports import Delivery, Fault, Finding, Gate, Source, Store, no_fault
from pipeline.retry import RetryPolicy
from pipeline.watch import Watch
from tokenspool.model import Endpoint, Prefill
from tokenspool.store.endpoints import Known


@dataclass(slots=True, kw_only=True)
class Site:
    """One endpoint, as the jobs that run against it share it."""

    endpoint: Endpoint
    source: Source
    gate: Gate
    #: Ways to ask it to go on, best first; empty when its profile says that there is none.
    flags: Sequence[Prefill]
    known: Known
    #: Asks what it makes of the beginning of an answer (body, opening); raises StreamError.
    probe: Callable[[Mapping[str, object], str], Awaitable[Finding]]
    #: Keeps what a probe found.
    remember: Callable[[Known], Awaitable[None]]
    #: One probe at a time: the others wait for what it finds.
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything the engine works with."""

    worker: str
    store: Store
    journal: Journal
    delivery: Delivery
    budget: Budget
    watch: Watch
    retry: RetryPolicy
    max_output_bytes: int
    fault: Fault = no_fault
