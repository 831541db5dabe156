"""Which jobs come next: strictly by priority, fairly between batches, in order within a batch.

The jobs are locked as they are chosen; what others hold locked is passed by. A batch of ten has its
turn beside a batch of a million, even with one slot falling free at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.model import JobState
from tokenspool.store import bulk
from tokenspool.store.groups import Group, claimable_groups, find_by_index, ready

#: Looks into the database for one choice. More than a few happen only when small batches of many
#: priorities meet, or others hold nearly all locked; the rest is chosen next time.
MOST_LOOKS = 32
#: Below every priority.
_BELOW = -(2**63)


class Chance(Protocol):
    """The part of `random.Random` that is needed; tests hand in one with a seed."""

    def random(self) -> float:
        """Give a number from 0 up to, not including, 1."""

    def shuffle(self, x: list[int]) -> None:
        """Mix a list."""


#: Which batch is first among equals is no secret.
CHANCE: Chance = random.Random()  # noqa: S311


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A job that is locked for whoever chose it."""

    id: int
    batch_id: int
    priority: int
    state: JobState


@dataclass(slots=True)
class _Lane:
    """A group as a queue: what was fetched of it and is not chosen yet, and where to go on."""

    group: Group
    #: No job of it that is still to come is better than this.
    priority: int
    after: int = 0
    jobs: list[Choice] = field(default_factory=list)
    is_fetched: bool = False

    @property
    def is_over(self) -> bool:
        return self.is_fetched and not self.jobs

    @property
    def best(self) -> int:
        return self.jobs[0].priority if self.jobs else self.priority

    @property
    def key(self) -> tuple[int, int, int]:
        return self.group.endpoint_id, self.group.batch_id, self.group.intake_id

    def add(self, jobs: list[Choice], *, missing: int) -> None:
        """Take in what was fetched when `missing` were asked for; fewer were all there are."""
        jobs.sort(key=lambda job: (-job.priority, job.id))
        self.jobs += jobs
        self.is_fetched = len(jobs) < missing
        if jobs:
            self.priority, self.after = jobs[-1].priority, jobs[-1].id


def choose(
    connection: sa.Connection,
    *,
    endpoint_id: int,
    limit: int,
    states: Sequence[JobState] = t.CLAIMABLE,
    chance: Chance = CHANCE,
) -> list[Choice]:
    """Choose up to `limit` jobs of an endpoint in these states, and lock them; best first.

    The batches of the highest priority get equal shares, in an order that `chance` mixes; what one
    does not fill goes to the others, then to lower priorities. Paused batches and unfinished
    enqueues are left out. A few jobs that are not chosen may stay locked until the end of the
    transaction.
    """
    find_by_index(connection)
    found = claimable_groups(connection, endpoint_id, roll=chance.random, states=states)
    lanes = [_Lane(group, group.priority) for group in sorted(found, key=_place)]
    chosen: list[Choice] = []
    looks = 0
    while lanes and len(chosen) < limit and looks < MOST_LOOKS:
        top = max(lane.best for lane in lanes)
        turns = _turns(lanes, top=top, wanted=limit - len(chosen), chance=chance)
        floor = _floor(lanes, turns, top=top)
        looks += _fetch(connection, turns, states)
        chosen += _take(turns, floor=floor)
        lanes = [lane for lane in lanes if not lane.is_over]
    return chosen


_Turns = list[tuple[_Lane, int]]


def _place(group: Group) -> tuple[int, int]:
    return group.batch_id, group.intake_id


def _turns(lanes: Sequence[_Lane], *, top: int, wanted: int, chance: Chance) -> _Turns:
    """Share what is wanted among the batches that have the best; each with its oldest intake."""
    first: dict[int, _Lane] = {}
    for lane in lanes:
        if lane.best == top:
            first.setdefault(lane.group.batch_id, lane)
    batches = list(first)
    chance.shuffle(batches)
    share, more = divmod(wanted, len(batches))
    turns = [(first[batch], share + (at < more)) for at, batch in enumerate(batches)]
    return [(lane, share) for lane, share in turns if share]


def _floor(lanes: Sequence[_Lane], turns: _Turns, *, top: int) -> int:
    """Give the priority down to which nobody else has a say in this turn."""
    if len(turns) > 1:
        return top
    mine = turns[0][0]
    others = max((lane.best for lane in lanes if lane is not mine), default=_BELOW)
    return min(top, others + 1)


def _take(turns: _Turns, *, floor: int) -> list[Choice]:
    """Take from each lane up to its share, one of each after the other."""
    taken: list[tuple[int, int, Choice]] = []
    for at, (lane, share) in enumerate(turns):
        count = 0
        while count < min(share, len(lane.jobs)) and lane.jobs[count].priority >= floor:
            taken.append((count, at, lane.jobs[count]))
            count += 1
        del lane.jobs[:count]
    return [choice for _, _, choice in sorted(taken, key=lambda one: one[:2])]


def _fetch(connection: sa.Connection, turns: _Turns, states: Sequence[JobState]) -> bool:
    """Fetch what the lanes lack for their shares; tell whether there was anything to fetch."""
    asked = [
        (lane, share - len(lane.jobs))
        for lane, share in turns
        if share > len(lane.jobs) and not lane.is_fetched
    ]
    if not asked:
        return False
    rows = [
        (at, *lane.key, lane.priority, lane.after, missing)
        for at, (lane, missing) in enumerate(asked)
    ]
    if bulk.is_bulk(connection):
        found = bulk.execute(connection, _NEXT_OF_ALL.format(ready=ready(states, "j")), _KEYS, rows)
    else:
        one = _next_of_one(tuple(states))
        keys = [dict(zip(_KEYS, row, strict=True)) for row in rows]
        found = [row for key in keys for row in connection.execute(one, key)]
    fetched: list[list[Choice]] = [[] for _ in asked]
    for at, id_, batch_id, priority, state in found:
        choice = Choice(id=id_, batch_id=batch_id, priority=priority, state=JobState(state))
        fetched[at].append(choice)
    for (lane, missing), jobs in zip(asked, fetched, strict=True):
        lane.add(jobs, missing=missing)
    return True


_KEYS = dict.fromkeys(
    ("at", "endpoint_id", "batch_id", "intake_id", "priority", "after", "missing"), "int8"
)


def _next(key: str) -> str:
    """Give the statement for the next jobs of a group, its place said by `key`."""
    return f"""
SELECT {key.format("at")} AS at, j.id, j.batch_id, j.priority, j.state FROM job AS j
WHERE j.endpoint_id = {key.format("endpoint_id")} AND j.batch_id = {key.format("batch_id")}
  AND j.intake_id = {key.format("intake_id")} AND {{ready}}
  AND j.priority <= {key.format("priority")}
  AND (j.priority < {key.format("priority")} OR j.id > {key.format("after")})
ORDER BY j.priority DESC, j.id LIMIT {key.format("missing")}
"""  # noqa: S608 - names of our own


_NEXT = _next(":{}")


@cache
def _next_of_one(states: tuple[JobState, ...]) -> sa.TextClause:
    return sa.text(_NEXT.format(ready=ready(states, "j")))


#: One statement for all groups; the rows are locked as they are found, so none is locked in vain.
_NEXT_OF_ALL = (
    f"SELECT p.* FROM {bulk.unnest(_KEYS)}"  # noqa: S608 - names of our own
    f" CROSS JOIN LATERAL ({_next('n.{}')} FOR UPDATE OF j SKIP LOCKED) AS p"
)
