"""How long the oldest claimable job has been waiting, found by its index."""

from __future__ import annotations

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.store.groups import ABOVE, find_by_index, ready

#: Looks at one endpoint, and distinct priorities of one group: what is beyond them is not seen.
_LOOKS, _PRIORITIES = 2000, 100


def oldest_pending_s(connection: sa.Connection, *, batch: int | None = None) -> float | None:
    """Give the seconds since the oldest pending or dispatched job was enqueued; None without any.

    Jobs of a paused batch wait, too; those of an unfinished enqueue are not there yet.
    """
    find_by_index(connection)
    span = {"low": 0, "high": ABOVE} if batch is None else {"low": batch, "high": batch}
    asked = {**span, "looks": _LOOKS, "priorities": _PRIORITIES}
    since: list[float] = []
    for endpoint_id in connection.execute(sa.select(t.endpoint.c.id)).scalars().all():
        found = connection.execute(_OLDEST, {**asked, "endpoint": endpoint_id}).scalar()
        since += [] if found is None else [found]
    if not since:
        return None
    clock: float = connection.execute(sa.select(now())).scalar_one()
    return max(0.0, clock - min(since))


_READY = f"FROM job AS f WHERE f.endpoint_id = :endpoint AND {ready(t.CLAIMABLE, 'f')}"
_SEEN = (
    "j.batch_id, j.intake_id, j.priority, j.created_at,"
    " EXISTS (SELECT 1 FROM intake AS i WHERE i.id = j.intake_id AND NOT i.revealed)"
)
_ORDER = "ORDER BY f.batch_id, f.intake_id, f.priority DESC, f.id LIMIT 1"
#: The first of each priority of each group: within both, jobs stand in the order they came.
_OLDEST = sa.text(f"""
WITH RECURSIVE walk (batch_id, intake_id, priority, created_at, hidden, nth, seen) AS (
  SELECT {_SEEN}, 1, 1 FROM job AS j WHERE j.id =
    (SELECT f.id {_READY} AND f.batch_id >= :low AND f.batch_id <= :high {_ORDER})
  UNION ALL
  SELECT {_SEEN},
    CASE WHEN j.batch_id = w.batch_id AND j.intake_id = w.intake_id THEN w.nth + 1 ELSE 1 END,
    w.seen + 1
  FROM walk AS w JOIN job AS j ON j.id = COALESCE(
    CASE WHEN NOT w.hidden AND w.nth < :priorities THEN
      (SELECT f.id {_READY} AND f.batch_id = w.batch_id AND f.intake_id = w.intake_id
        AND f.priority < w.priority {_ORDER}) END,
    (SELECT f.id {_READY} AND f.batch_id = w.batch_id AND f.intake_id > w.intake_id {_ORDER}),
    (SELECT f.id {_READY} AND f.batch_id > w.batch_id AND f.batch_id <= :high {_ORDER}))
  WHERE w.seen < :looks
)
SELECT min(created_at) FROM walk WHERE NOT hidden
""")  # noqa: S608 - names of our own
