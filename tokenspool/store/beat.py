"""The beat: what all streams of a process have gathered becomes true in one transaction.

Law 1: the segments and the checkpoint that covers them are committed together. Law 2: the fence is
in the row that is written, `checkpoint`, by (epoch, seq). Who matches no row has lost the job.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenspool.database import Database
from tokenspool.model import Entry
from tokenspool.store import beat_postgres, beat_sqlite

Owner = tuple[int, int]


def commit_beat(database: Database, entries: Sequence[Entry]) -> frozenset[Owner]:
    """Commit all entries whose claim still stands; give the claims (job, epoch) that were lost.

    On return the entries that were not lost are durable. On an exception none is, unless the
    commit's own answer was lost: then calling again settles it, because a checkpoint that already
    stands at the entry's (epoch, seq, offset) counts as committed.
    """
    if database.kind == "postgresql":
        return beat_postgres.commit(database, entries)
    return beat_sqlite.commit(database, entries)
