"""Ownership: a worker owns its jobs as long as its lease; others take them once it is dead.

A lease is renewed or it has run out, by the database's clock; there is no way back. Whoever finds
its own run out goes on under a new id with what nobody has taken. Declaring dead locks the worker's
row whole, so it waits for nobody and skips a worker that is just claiming.
"""

from __future__ import annotations

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.store import claims, workers
from tokenspool.store.groups import find_by_index

#: Rows of workers that are gone are kept this long, for whoever looks into what happened.
FORGET_S = 86_400.0
_j, _w = t.job.c, t.worker.c


def renew(connection: sa.Connection, worker: str, *, lease_s: float) -> bool:
    """Make the lease last `lease_s` from now; False when it has run out or was ended."""
    changed = connection.execute(
        sa.update(t.worker)
        .where(_w.id == worker, _w.state != "gone", _w.lease_until > now())
        .values(lease_until=now() + lease_s)
    ).rowcount
    return bool(changed)


def succeed(
    connection: sa.Connection,
    before: str,
    *,
    worker: str,
    version: str,
    slots: int,
    lease_s: float,
) -> int:
    """Go on as `worker` with what `before` still owns; give how many jobs that are.

    Their epochs stay, so that streams which are under way go on.
    """
    connection.execute(sa.select(_w.id).where(_w.id == before).with_for_update()).all()
    workers.register(connection, worker, version=version, slots=slots, lease_s=lease_s)
    owned = connection.execute(
        sa.select(_j.id).where(_j.owner == before).order_by(_j.id).with_for_update()
    ).all()
    connection.execute(sa.update(t.job).where(_j.owner == before).values(owner=worker))
    workers.retire(connection, workers=[before])
    return len(owned)


def reap(connection: sa.Connection, *, max_crashes: int) -> int:
    """Declare dead whose lease has run out and take back what the dead own; give how many jobs.

    What somebody holds a lock on is left for the next time: it is alive, or its connection ends.
    Many may reap at once. `max_crashes` as in `claims.reclaim`.
    """
    find_by_index(connection)
    run_out = (
        sa.select(_w.id)
        .where(_w.state != "gone", _w.lease_until <= now())
        .order_by(_w.id)
        .with_for_update(skip_locked=True)
    )
    dead = list(connection.execute(run_out).scalars())
    if dead:
        workers.retire(connection, workers=dead)
    living = sa.exists().where(_w.id == _j.owner, _w.state != "gone")
    left = sa.select(_j.owner).where(_j.owner.is_not(None), ~living).distinct()
    ownerless = [str(owner) for owner in connection.execute(left).scalars()]
    taken = 0
    if ownerless:
        taken = claims.reclaim(connection, dead=sorted(ownerless), max_crashes=max_crashes)
    owning = sa.exists().where(_j.owner == _w.id)
    connection.execute(
        sa.delete(t.worker).where(_w.state == "gone", _w.lease_until < now() - FORGET_S, ~owning)
    )
    return taken
