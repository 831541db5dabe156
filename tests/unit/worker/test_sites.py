"""The sites: one for each endpoint, and never another endpoint's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.sources.scripted import Script, ScriptedSource
from tests.unit.pipeline.bench import Bench
from tokenspool.model import Endpoint
from worker.sites import Sites

OLD = Endpoint(id=1, url="http://old/v1", model="m")


class Closing(ScriptedSource):
    """Remembers that it was closed."""

    times = 0

    async def close(self) -> None:
        """See the port."""
        self.times += 1


async def test_a_row_that_names_another_server_gets_a_site_of_its_own(tmp_path: Path) -> None:
    """Its jobs go to its URL, by a gate that knows nothing of the old one; both are closed once."""
    made: dict[str, Closing] = {}

    def source_for(endpoint: Endpoint) -> Closing:
        return made.setdefault(endpoint.url, Closing(Script(tokens=lambda _: [])))

    bench = Bench(tmp_path, Script(tokens=lambda _: []))
    async with bench.engine() as (parts, _):
        sites = Sites(
            bench.store, parts.journal, slots=4, source_for=source_for, flags_for=lambda _: ()
        )
        old = sites.site(OLD)
        old_gate = sites.gate(old)

        new = sites.site(replace(OLD, url="http://new/v1"))

        assert sites.site(replace(OLD, url="http://new/v1")) is new
        assert (old.source, new.source) == (made["http://old/v1"], made["http://new/v1"])
        assert sites.gate(new) is not old_gate
        assert list(sites) == [new]
        assert [source.times for source in made.values()] == [0, 0]
        await sites.close()
        assert [source.times for source in made.values()] == [1, 1]
