"""Whether a worker of this machine lives: what a container's health check asks.

`python -P -m worker.healthy` ends with 0 when the database knows a worker of this host whose lease
holds (it is renewed only while its loop and its journal move), and with 1 when it knows none. While
the database cannot be asked it ends with 0 as well: the worker waits for it with its streams open,
and to restart it would only close them.
"""

from __future__ import annotations

import contextlib
import socket
import sys

import sqlalchemy as sa

from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import Database, now
from tokenspool.errors import TokenspoolError, Unavailable, UsageError
from tokenspool.settings import load

#: An answer that takes longer is none.
CONNECT_S = 3


def heartbeat_age_s(database: Database, host: str) -> float | None:
    """Give the seconds since a living worker of the host was heard of; None when there is none.

    Raises `Unavailable` when the database cannot be asked.
    """
    if migrate.current(database) is None:
        return None
    w = t.worker.c
    youngest = sa.select(sa.func.min(now() - w.heartbeat_at)).where(
        w.host == host, w.state != "gone", w.lease_until > now()
    )
    with database.read() as connection:
        age = connection.execute(youngest).scalar()
    return None if age is None else float(age)


def _database() -> Database:
    url = load().database_url
    if not url:
        msg = "no database is named: set TOKENSPOOL_DATABASE_URL"
        raise UsageError(msg)
    database = Database(url)
    if database.kind == "postgresql":
        asked = database.url.update_query_dict({"connect_timeout": str(CONNECT_S)})
        database = Database(asked.render_as_string(hide_password=False))
    return database


def main() -> int:
    """Say in one line how it stands; give the exit code."""
    host = socket.gethostname()
    try:
        with contextlib.closing(_database()) as database:
            age = heartbeat_age_s(database, host)
    except Unavailable as error:
        sys.stdout.write(f"unknown: {error}\n")
        return 0
    except TokenspoolError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    if age is None:
        sys.stdout.write(f"no living worker of {host} is in the database\n")
        return 1
    sys.stdout.write(f"a worker of {host} was heard of {age:.0f} s ago\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
