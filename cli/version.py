"""`tokenspool version`: which tokenspool this is."""

from __future__ import annotations

import platform

import typer

import tokenspool
from cli.options import command_app, invocation
from cli.printing import show, show_json

app = command_app()


@app.command()
def version(ctx: typer.Context) -> int:
    """Which tokenspool this is."""
    if invocation(ctx).as_json:
        show_json({"tokenspool": tokenspool.__version__, "python": platform.python_version()})
    else:
        show(f"tokenspool {tokenspool.__version__}")
    return 0
