"""Which refusals of a PostgreSQL are worth waiting for: a worker ends for the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tokenspool.database import Database, DatabaseError, _is_passing

#: As libpq, the system or PgBouncer say them when a connection cannot be made, without a code.
PASSING = [
    'connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory',
    'connection to server at "10.0.0.1", port 5432 failed: Connection refused',
    'connection to server at "10.0.0.1", port 5432 failed: Network is unreachable',
    'connection to server at "10.0.0.1", port 5432 failed: Connection timed out',
    "failed to resolve host 'db': [Errno -3] Temporary failure in name resolution",
    "SSL SYSCALL error: EOF detected",
    "could not receive data from server: Connection reset by peer",
    "FATAL:  sorry, too many clients already",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    'FATAL:  too many connections for role "tokenspool"',
    "FATAL:  the database system is starting up",
    "FATAL:  server login has been failing, try again later (server_login_retry)",
]
LASTING = [
    'FATAL:  password authentication failed for user "tokenspool"',
    'FATAL:  database "tokenspol" does not exist',
    "FATAL:  no pg_hba.conf entry for host",
]


@pytest.mark.parametrize("sentence", PASSING)
def test_a_server_that_is_away_or_full_comes_back(sentence: str) -> None:
    """Restarts, fail-overs and crowds end; the streams stay open meanwhile."""
    assert _is_passing(_refused(sentence), sentence)


@pytest.mark.parametrize("sentence", LASTING)
def test_a_refusal_that_a_person_must_mend_is_no_reason_to_wait(sentence: str) -> None:
    """A wrong password does not become right."""
    assert not _is_passing(_refused(sentence), sentence)


def test_a_server_whose_socket_is_gone_is_away(tmp_path: Path) -> None:
    """So it looks while a local server restarts."""
    database = Database(f"postgresql:///none?host={tmp_path}")

    with pytest.raises(DatabaseError) as refused, database.read():
        pass

    assert refused.value.passing


def _refused(sentence: str) -> sa.exc.DBAPIError:
    return sa.exc.OperationalError(None, None, Exception(sentence))
