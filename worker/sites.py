"""The endpoints a process works against: one source, one gate and one profile each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from pipeline.journal import Journal
from pipeline.parts import Site
from pipeline.ports import Source
from pipeline.sources.probe import probe
from tokenspool.model import Endpoint, Prefill
from tokenspool.store import endpoints as store_endpoints
from tokenspool.store.endpoints import Known
from worker.gate import Gate
from worker.limits.rates import Rates
from worker.permits import Permits
from worker.sqlstore import SqlStore


class Sites:
    """Makes each endpoint's site when its first job comes, and keeps it for the process's life."""

    def __init__(
        self,
        store: SqlStore,
        journal: Journal,
        *,
        slots: int,
        source_for: Callable[[Endpoint], Source],
        flags_for: Callable[[Endpoint], tuple[Prefill, ...]],
        rates_for: Callable[[Endpoint], Rates] = lambda _: Rates(),
        book_for: Callable[[Endpoint], str] = lambda _: "",
        permits: Permits | None = None,
    ) -> None:
        """Take from the wiring what ends in `_for`; `book_for` names an endpoint's shared book."""
        self._store = store
        self._journal = journal
        self._slots = slots
        self._source_for = source_for
        self._flags_for = flags_for
        self._rates_for = rates_for
        self._book_for = book_for
        self.permits = permits or Permits()
        self._sites: dict[int, Site] = {}
        self._gates: dict[int, Gate] = {}
        #: Of rows that are gone; closed at the end, somebody may still read from one.
        self._old_sources: list[Source] = []
        self.paused: set[int] = set()
        #: Those that had work when the database was last asked.
        self.working: list[Site] = []

    def __iter__(self) -> Iterator[Site]:
        """Iterate the sites made so far."""
        return iter(list(self._sites.values()))

    def site(self, endpoint: Endpoint, known: Known | None = None) -> Site:
        """Give an endpoint's site."""
        site = self._sites.get(endpoint.id)
        if site is not None and site.endpoint != endpoint:
            self._old_sources.append(site.source)
            site = None
        if site is None:

            async def remember(found: Known) -> None:
                await self._journal.call(
                    lambda: self._store.write(
                        lambda c: store_endpoints.remember(c, endpoint.id, found)
                    )
                )

            source, flags = self._source_for(endpoint), self._flags_for(endpoint)
            gate = self._gates[endpoint.id] = Gate(self._slots, rates=self._rates_for(endpoint))
            self.permits.add(gate, partial(self._book_for, endpoint))
            site = self._sites[endpoint.id] = Site(
                endpoint=endpoint,
                source=source,
                gate=gate,
                flags=flags,
                known=known or Known(),
                probe=partial(probe, source, flags=flags),
                remember=remember,
            )
        return site

    def gate(self, site: Site) -> Gate:
        """Give a site's gate, with what only the worker asks of it."""
        return self._gates[site.endpoint.id]

    async def refresh(self) -> list[Site]:
        """Give the sites with pending or waiting jobs, as the database says now; no paused ones."""
        found = await self._journal.call(lambda: self._store.read(store_endpoints.with_work))
        self.paused = {endpoint.id for endpoint, _, state in found if state == "paused"}
        # Who waits for a paused one would wait until a person acts.
        self.working = [
            self.site(endpoint, known) for endpoint, known, state in found if state != "paused"
        ]
        return self.working

    async def close(self) -> None:
        """Close all connections."""
        for source in [*self._old_sources, *(site.source for site in self)]:
            await source.close()
