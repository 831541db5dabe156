"""`tokenspool db`: the database's own version."""

from __future__ import annotations

import typer

from cli.invocation import Invocation
from cli.options import Folder, command_app, invocation
from cli.printing import show, show_json
from tokenspool import migrate, tables
from tokenspool.database import Database

app = command_app()


@app.command()
def upgrade(ctx: typer.Context, *, output: Folder = None) -> int:
    """Bring the database to this version; a SQLite file is made if there is none."""
    asked = invocation(ctx)
    with asked.database(asked.settings(), folder=output) as database:
        before = migrate.current(database)
        if database.kind == "sqlite":
            migrate.ensure(database)
        else:
            migrate.upgrade(database)
        _tell(asked, database, before=before)
    return 0


@app.command()
def current(ctx: typer.Context, *, output: Folder = None) -> int:
    """Tell which version the database has."""
    asked = invocation(ctx)
    with asked.database(asked.settings(), folder=output) as database:
        _tell(asked, database, before=migrate.current(database))
    return 0


def _tell(asked: Invocation, database: Database, *, before: str | None) -> None:
    at = migrate.current(database)
    if asked.as_json:
        show_json(
            {"database": database.name, "before": before, "revision": at, "newest": tables.HEAD}
        )
        return
    state = "up to date" if at == tables.HEAD else f"needs {tables.HEAD}: tokenspool db upgrade"
    show(f"{database.name}: {at or 'no tables yet'}, {state}")
