"""`tokenspool db`: the database's own version."""

from __future__ import annotations

from pathlib import Path

import typer

from cli.invocation import Invocation
from cli.main import EPILOG
from cli.options import Folder, command_app, invocation, same_database
from cli.printing import show, show_json
from tokenspool import migrate, tables
from tokenspool.database import Database
from tokenspool.errors import UsageError

app = command_app()


@app.command(epilog=EPILOG)
def upgrade(ctx: typer.Context, *, output: Folder = None) -> int:
    """Bring the database to this version; a SQLite file is made if there is none."""
    asked = invocation(ctx)
    with asked.database(asked.settings(), folder=output) as database:
        before = migrate.current(database)
        if database.kind == "sqlite":
            migrate.ensure(database)
        else:
            migrate.upgrade(database)
        _tell(asked, database, output, before=before)
    return 0


@app.command(epilog=EPILOG)
def current(ctx: typer.Context, *, output: Folder = None) -> int:
    """Tell which version the database has."""
    asked = invocation(ctx)
    with asked.database(asked.settings(), folder=output) as database:
        at = migrate.current(database)
        if (asked.db or output) and database.path is not None and not database.path.exists():
            msg = (
                f"there is no database {database.path}; `tokenspool run` or `enqueue` makes one,"
                " -o DIR or --db URL names another"
            )
            raise UsageError(msg)
        _tell(asked, database, output, before=at)
    return 0


def _tell(
    asked: Invocation, database: Database, output: Path | None, *, before: str | None
) -> None:
    at = migrate.current(database)
    if asked.as_json:
        show_json(
            {"database": database.name, "before": before, "revision": at, "newest": tables.HEAD}
        )
        return
    upgrading = f"tokenspool db upgrade{same_database(asked, output)}"
    state = "up to date" if at == tables.HEAD else f"needs {tables.HEAD}: `{upgrading}`"
    show(f"{database.name}: {at or 'no tables yet'}, {state}")
