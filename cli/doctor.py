"""`tokenspool doctor`: what is wrong around it, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli import checks
from cli import request as asking
from cli.checks import Check
from cli.endpoint_checks import EndpointDoctor
from cli.main import UNUSABLE
from cli.options import Folder, command_app, invocation
from cli.printing import show, show_json
from pipeline.sources.settings import SourceSettings
from tokenspool.database import Database
from tokenspool.model import Endpoint
from tokenspool.settings import Settings
from tokenspool.store.intake.options import checked_url

app = command_app()
_SIGNS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED ", "skipped": "skipped"}


@app.command()
def doctor(
    ctx: typer.Context,
    *,
    model: asking.Model = None,
    base_url: asking.BaseUrl = None,
    streams: Annotated[int | None, typer.Option(min=1, help="Streams at once.")] = None,
    output: Folder = None,
) -> int:
    """Check settings, database, disk, endpoint, key, model and resuming; one line each.

    Asks the model for two or three answers of at most 64 tokens. Ends with 4 if something needed
    cannot be used.
    """
    asked = invocation(ctx)
    settings = asked.settings(model=model, base_url=base_url, streams=streams)
    found: list[Check] = []

    def tell(check: Check) -> None:
        found.append(check)
        if not asked.as_json:
            show(f"{_SIGNS[check.state]} {check.name:10} {check.found}")
            if check.action:
                show(f"{'':18} -> {check.action}")

    with asked.database(settings, folder=output) as database:
        for check in _here(settings, database, output):
            tell(check)
    asyncio.run(_there(settings, tell))
    is_well = all(check.state != "failed" for check in found)
    if asked.as_json:
        show_json({"ok": is_well, "checks": [asdict(check) for check in found]})
    return 0 if is_well else UNUSABLE


def _here(settings: Settings, database: Database, output: Path | None) -> Iterator[Check]:
    yield checks.of_settings(settings)
    yield checks.of_database(database)
    if database.kind == "sqlite":
        yield checks.of_sqlite()
    folder = (output or Path()).absolute()
    yield checks.of_disk(folder)
    if database.path is not None and not database.path.is_relative_to(folder):
        yield checks.of_disk(database.path.parent)
    yield checks.of_files(settings.streams)


async def _there(settings: Settings, tell: checks.Tell) -> None:
    url = checked_url(settings.base_url)
    endpoint = Endpoint(
        url=url, model=settings.model or "", api_key_env=settings.key_env(settings.base_url)
    )
    profile = settings.profile(url)
    source = SourceSettings(
        connect_timeout_s=settings.connect_timeout_s,
        max_event_bytes=settings.max_event_bytes,
        done_is_finish=profile.done_is_finish,
    )
    await EndpointDoctor(endpoint, profile, source, tell).look()
