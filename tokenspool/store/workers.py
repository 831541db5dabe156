"""Workers: one row each, so that people and other workers see who lives and what it carries."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now

#: A worker that has not renewed its row for this long is dead.
LEASE_S = 45.0
_w = t.worker.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a worker carries at a heartbeat."""

    state: str
    streams: int
    slots: int
    tokens_per_s: float


def new_worker_id() -> str:
    """Make an id that no other start ever has: a host that comes back must not inherit claims."""
    return f"{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(4)}"


def lives(connection: sa.Connection, worker: str) -> bool:
    """Tell whether the worker's lease holds, and keep it from being declared dead meanwhile.

    Meanwhile is until the end of the transaction. Renewals go on beside it.
    """
    row = connection.execute(
        sa.select(_w.id)
        .where(_w.id == worker, _w.state != "gone", _w.lease_until > now())
        .with_for_update(read=True, key_share=True)
    ).first()
    return row is not None


def count_living(connection: sa.Connection) -> int:
    """Count the workers whose lease holds."""
    living = sa.select(sa.func.count()).where(_w.state != "gone", _w.lease_until > now())
    return int(connection.execute(living).scalar_one())


def register(
    connection: sa.Connection, worker: str, *, version: str, slots: int, lease_s: float = LEASE_S
) -> None:
    """Make the worker's row."""
    connection.execute(
        t.worker.insert().values(
            id=worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version,
            state="running",
            slots=slots,
            streams=0,
            tokens_per_s=0.0,
            started_at=now(),
            heartbeat_at=now(),
            lease_until=now() + lease_s,
        )
    )


def heartbeat(
    connection: sa.Connection, worker: str, load: Load, *, lease_s: float | None = LEASE_S
) -> bool:
    """Renew the worker's row; False when it is gone, and the worker's claims with it.

    Without `lease_s` only the load is written: the lease is renewed by somebody else.
    """
    lease = {} if lease_s is None else {"lease_until": now() + lease_s}
    changed = connection.execute(
        sa.update(t.worker)
        .where(_w.id == worker, _w.state != "gone")
        .values(
            state=load.state,
            streams=load.streams,
            slots=load.slots,
            tokens_per_s=load.tokens_per_s,
            heartbeat_at=now(),
            **lease,
        )
    ).rowcount
    return bool(changed)


def retire(connection: sa.Connection, *, workers: list[str] | None = None) -> None:
    """Mark workers as gone; without names all of them, for a caller who knows itself alone."""
    statement = sa.update(t.worker).values(state="gone", streams=0, tokens_per_s=0.0)
    if workers is not None:
        statement = statement.where(_w.id.in_(workers))
    connection.execute(statement)
