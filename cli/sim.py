"""`tokenspool sim`: a stand-in for a model, with faults at will."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, get_args

import msgspec
import typer

from cli.options import command_app, invocation
from cli.printing import show, show_json
from simulator.rules import parse_rule
from simulator.running import run
from simulator.settings import Prefix, PrefixFlag, SimSettings
from tokenspool.errors import Unavailable, UsageError

app = command_app()
_GIVEN = SimSettings()


@app.command()
def sim(  # noqa: PLR0913 - an option each
    ctx: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="Where to listen.")] = _GIVEN.host,
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = _GIVEN.port,
    rate: Annotated[
        float, typer.Option(help="Tokens per second and stream; 0: as fast as read.", min=0)
    ] = _GIVEN.rate,
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=0)] = _GIVEN.tokens,
    seed: Annotated[int, typer.Option(help="Another seed, other texts.")] = _GIVEN.seed,
    sampling: Annotated[bool, typer.Option("--sampling", help="Other words each time.")] = False,
    prefix: Annotated[
        str, typer.Option(metavar="HOW", help="honour, ignore, refuse or echo a prefix.")
    ] = _GIVEN.prefix,
    prefix_flag: Annotated[
        str, typer.Option(metavar="FLAG", help="The flag that makes a prefix of a message.")
    ] = _GIVEN.prefix_flag,
    api_key: Annotated[str | None, typer.Option(help="The only key that is accepted.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="The only models; repeatable.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE][@EVERY]", help="What goes wrong; repeatable."),
    ] = None,
    fault_rate: Annotated[
        float, typer.Option(help="Share of streams cut, stalled or ended early.", min=0, max=1)
    ] = _GIVEN.fault_rate,
) -> int:
    """Serve an OpenAI-compatible endpoint; the first line of stdout is its base URL."""
    try:
        # Every value is parsed and checked here, before anything listens.
        settings = msgspec.convert(
            asdict(_GIVEN)
            | {
                "host": host,
                "port": port,
                "rate": rate,
                "tokens": tokens,
                "seed": seed,
                "sampling": sampling,
                "prefix": prefix,
                "prefix_flag": prefix_flag,
                "api_key": api_key,
                "models": tuple(model or ()),
                "rules": tuple(parse_rule(one) for one in fault or ()),
                "fault_rate": fault_rate,
            },
            SimSettings,
        )
    except ValueError as error:
        raise UsageError(_said(str(error))) from error
    as_json = invocation(ctx).as_json
    try:
        run(settings, lambda url: show_json({"base_url": url}) if as_json else show(url))
    except OSError as error:
        msg = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; try --port 0"
        raise Unavailable(msg) from error
    return 0


def _said(text: str) -> str:
    """Say what is wrong as the command line names it."""
    for kind, option in ((Prefix, "prefix"), (PrefixFlag, "prefix_flag")):
        if f"`$.{option}`" in text:
            choices = ", ".join(get_args(kind))
            return f"--{option.replace('_', '-')} is one of: {choices}"
    return text
