"""Where the jobs of an enqueue belong in one database: their batch, output and endpoints."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database, now
from tokenspool.inputs.spec import JobSpec
from tokenspool.names import quoted
from tokenspool.store.intake import reasons, rows
from tokenspool.store.intake.options import JobOptions
from tokenspool.store.intake.turns import reading

_e = t.endpoint.c
#: Models remembered; an input may name a different one on every line.
_REMEMBERED = 1000

Asked = tuple[str, str, str]


class Place:
    """A batch and an output in a database, by name; each may not be there yet."""

    def __init__(self, database: Database, batch: str, root: str) -> None:
        """Look up what is there; nothing is made."""
        self.database = database
        self._batch, self.root = batch, root
        self._endpoints: dict[Asked, int] = {}
        self.batch_id, self.output_id = reading(database, self._look)
        #: Jobs that were there before are looked for in these only.
        self._old_batch = self.batch_id is not None
        self._old_output = self.output_id is not None
        self._trusting = False

    def trust(self) -> None:
        """Look for nothing in a batch or an output that was not there at first.

        Only one enqueue is at work at a time, so only an earlier line of the same enqueue can be in
        the way of a line. The tables' unique keys find that: then `doubt`.
        """
        self._trusting = not (self._old_batch and self._old_output)

    def doubt(self) -> bool:
        """Look for jobs everywhere from now on; False if that was done anyway."""
        trusted, self._trusting = self._trusting, False
        return trusted

    def _look(self, connection: sa.Connection) -> tuple[int | None, int | None]:
        b, o = t.batch.c, t.output.c
        return (
            connection.execute(sa.select(b.id).where(b.name == self._batch)).scalar(),
            connection.execute(sa.select(o.id).where(o.root == self.root)).scalar(),
        )

    def make(self, connection: sa.Connection) -> tuple[int, int]:
        """Give the ids of batch and output, made where they are not there."""
        batch_id, output_id = self._look(connection)
        if batch_id is None:
            batch = t.batch.insert().values(name=self._batch, created_at=now())
            batch_id = connection.execute(batch.returning(t.batch.c.id)).scalar_one()
        if output_id is None:
            output = t.output.insert().values(root=self.root)
            output_id = connection.execute(output.returning(t.output.c.id)).scalar_one()
        return batch_id, output_id

    def existing(
        self, specs: Sequence[JobSpec]
    ) -> tuple[dict[str, rows.Existing], dict[str, rows.Existing]]:
        """Give the jobs that have the lines' custom_ids, and those that have their outputs."""
        if self.batch_id is None and self.output_id is None:
            return {}, {}
        if self._trusting and not self._old_batch and not self._old_output:
            return {}, {}
        return reading(self.database, lambda connection: self._existing(connection, specs))

    def _existing(
        self, connection: sa.Connection, specs: Sequence[JobSpec]
    ) -> tuple[dict[str, rows.Existing], dict[str, rows.Existing]]:
        there: dict[str, rows.Existing] = {}
        taken: dict[str, rows.Existing] = {}
        if self.batch_id is not None and (self._old_batch or not self._trusting):
            ids = [spec.custom_id for spec in specs]
            there = rows.by_custom_id(connection, batch_id=self.batch_id, custom_ids=ids)
        if self.output_id is not None and (self._old_output or not self._trusting):
            keys = [spec.name_key for spec in specs if spec.custom_id not in there]
            taken = rows.by_name_key(connection, output_id=self.output_id, name_keys=keys)
        return there, taken

    def body_of(self, job_id: int) -> bytes:
        """Give a job's request."""
        return reading(self.database, lambda connection: rows.body_of(connection, job_id))

    def moved(self, spec: JobSpec, job: rows.Existing) -> str | None:
        """Say that the job that is there writes elsewhere than the line wants; None if not."""
        if job.output_id == self.output_id and job.name == spec.name:
            return None
        if job.output_id == self.output_id:
            return reasons.elsewhere(spec, name=job.name)
        return (
            f"custom_id {quoted(spec.custom_id)} is already a job that writes below"
            f" {self._root_of(job.output_id)}, not below {self.root}: use the same -o, or another"
            " batch"
        )

    def _root_of(self, output_id: int) -> str:
        o = t.output.c
        root = sa.select(o.root).where(o.id == output_id)
        found = reading(self.database, lambda connection: connection.execute(root).scalar())
        return found or "another folder"

    def endpoint_id(self, model: str, options: JobOptions) -> int | None:
        """Give the id of the endpoint for a model; None when it is not there yet."""
        asked = (options.base_url, model, options.api_key_env)
        if asked not in self._endpoints:
            found = reading(self.database, lambda connection: find_endpoint(connection, asked))
            if found is None:
                return None
            self.remember(asked, found)
        return self._endpoints[asked]

    def remember(self, asked: Asked, endpoint_id: int) -> None:
        """Keep an id that is committed."""
        if len(self._endpoints) >= _REMEMBERED:
            self._endpoints.clear()
        self._endpoints[asked] = endpoint_id

    def recall(self, asked: Asked) -> int | None:
        """Give an id that was kept."""
        return self._endpoints.get(asked)


def find_endpoint(connection: sa.Connection, asked: Asked) -> int | None:
    """Give the id of an endpoint; None when it is not there."""
    url, model, key = asked
    return connection.execute(
        sa.select(_e.id).where(_e.url == url, _e.model == model, _e.api_key_env == key)
    ).scalar()


def make_endpoint(connection: sa.Connection, asked: Asked) -> int:
    """Give the id of an endpoint that is made if it is not there."""
    found = find_endpoint(connection, asked)
    if found is not None:
        return found
    url, model, key = asked
    new = t.endpoint.insert().values(url=url, model=model, api_key_env=key)
    return int(connection.execute(new.returning(_e.id)).scalar_one())
