"""Documents that repeat their own opening, cut behind every token: the text comes out whole.

The hardest case for telling "it goes on" from "it answers anew": both begin alike. With an endpoint
that gives the same text each time, nothing may be lost or doubled, whatever it makes of a prefix.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.parts import Parts, Site
from pipeline.runner import run_job
from pipeline.sources.probe import probe
from pipeline.sources.scripted import Script, ScriptedSource, cut_after
from tests.unit.pipeline.bench import Bench
from tokenspool.model import Completed, Job, Prefill
from tokenspool.store.endpoints import Known

_WORDS = "sing the river sing the stone sing it all the long way home"
LINE = [f"{word} " for word in _WORDS.split()]
_LA = ["la ", "la ", "lo "]
_LULLABY = [*_LA, *_LA, "li ", *_LA, *_LA, "li ", "lu\n"]

DOCUMENTS = {
    "one line again and again": (LINE * 5)[:60],
    "with a bridge": [*LINE, "\n", *LINE, "once ", "more ", "\n", *LINE, "the ", "end"],
    "at every scale": [*_LULLABY, *_LULLABY, "le\n", *_LULLABY, *_LULLABY][:60],
    "between verses": [
        *LINE, "\n\n", "first ", "verse ", "\n", *LINE, "\n\n", "second ", "verse ", "\n", *LINE,
    ],
    "behind white space": ["\n\n", *LINE, "\n\n", *LINE, "\n\n", *LINE, "fin"],
}  # fmt: skip
HONOURS = Known(resumes_by="continue_final_message", deterministic=True)


async def cut_everywhere(
    bench: Bench, document: list[str], *, resume: str, known: Known, honours: bool
) -> None:
    """Run the document once for every place behind which it can be cut, all at the same time."""
    flags = frozenset(Prefill) if honours else frozenset[Prefill]()

    async def one(parts: Parts, site: Site, cut: int, job: Job) -> None:
        script = Script(tokens=lambda _: document, honours=flags, cuts=[cut_after(cut)])
        source = ScriptedSource(script)
        asks = partial(probe, source, flags=site.flags)
        site = replace(site, source=source, known=known, probe=asks, probing=asyncio.Lock())

        ending = await run_job(job, parts, site)
        parts.delivery.close(job)  # instead of publishing it

        assert ending == Completed(finish="stop"), f"cut behind token {cut}"
        edition = bench.row("checkpoint", job.id)["edition"]
        assert bench.text(job.id, edition) == "".join(document), f"cut behind token {cut}"

    cuts = range(1, len(document))
    for cut in cuts:
        bench.enqueue(f"cut{cut}", resume=resume)
    async with bench.engine() as (parts, site):
        jobs = [bench.claim() for _ in cuts]
        await asyncio.gather(
            *(one(parts, site, cut, job) for cut, job in zip(cuts, jobs, strict=True))
        )


@pytest.mark.parametrize("honours", [True, False], ids=["goes on", "answers anew"])
@pytest.mark.parametrize("kind", DOCUMENTS)
async def test_prefill_comes_out_whole_wherever_it_is_cut(
    tmp_path: Path, kind: str, honours: bool
) -> None:
    """The person says that it goes on behind a prefix; that may be wrong."""
    bench = Bench(tmp_path, Script(tokens=lambda _: []))

    await cut_everywhere(bench, DOCUMENTS[kind], resume="prefill", known=HONOURS, honours=honours)


@pytest.mark.parametrize("honours", [True, False], ids=["goes on", "answers anew"])
@pytest.mark.parametrize("kind", ["one line again and again", "at every scale", "between verses"])
async def test_what_the_probe_makes_of_a_refrain_does_no_harm(
    tmp_path: Path, kind: str, honours: bool
) -> None:
    """`auto` asks what the endpoint does; a text that repeats itself may mislead it."""
    bench = Bench(tmp_path, Script(tokens=lambda _: []))

    await cut_everywhere(bench, DOCUMENTS[kind] * 2, resume="auto", known=Known(), honours=honours)
