"""The tables that the migrations make and the operations read; nothing here touches a database.

Times are seconds since 1970-01-01 UTC as doubles, from the database's clock. Bytes that came from
people or models are BLOBs: PostgreSQL's text refuses a NUL, and a refused row would stop a beat.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

from tokenspool.model import JobState

#: The newest migration; `database.py` compares it with what the database carries.
HEAD = "0002"

metadata = MetaData()

#: SQLite makes only INTEGER PRIMARY KEY an alias of its rowid.
_Id = BigInteger().with_variant(Integer, "sqlite")

batch = Table(
    "batch",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String(400), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
)

#: The batch of an intake whose jobs have joined an earlier one; no batch has this id.
JOINED = 0
#: One bulk enqueue. Its jobs are invisible until `revealed`, which is one row's change.
intake = Table(
    "intake",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("batch_id", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revealed", Boolean, nullable=False, server_default=text("false")),
)
#: Every claim asks which ones are hidden: there may be an intake for each job a service enqueued.
_HIDDEN = ~intake.c.revealed
Index("intake_hidden", intake.c.id, sqlite_where=_HIDDEN, postgresql_where=_HIDDEN)
Index("intake_batch", intake.c.batch_id, intake.c.id)

output = Table(
    "output",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("root", Text, nullable=False, unique=True),
)

endpoint = Table(
    "endpoint",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("url", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("api_key_env", String(200), nullable=False),
    #: up, down (probed with backoff), refused (the key), paused (by a person).
    Column("state", String(20), nullable=False, server_default="up"),
    Column("reason", Text),
    Column("retry_at", Float),
    Column("in_flight_limit", Integer),
    #: What the probe found: "" not probed, a prefill flag, "replay", or "none".
    Column("resumes_by", String(40), nullable=False, server_default=""),
    Column("deterministic", Boolean),
    Column("probed_at", Float),
    UniqueConstraint("url", "model", "api_key_env"),
    # An id is never used again: a worker that knew the old row would ask the wrong server.
    sqlite_autoincrement=True,
)

job = Table(
    "job",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("batch_id", BigInteger, nullable=False),
    Column("intake_id", BigInteger, nullable=False),
    Column("endpoint_id", BigInteger, nullable=False),
    Column("output_id", BigInteger, nullable=False),
    Column("custom_id", String(200), nullable=False),
    #: Hash of method, url and body: what makes two lines with one custom_id the same job.
    Column("content", LargeBinary(16), nullable=False),
    #: Path below the output's root, and its case-folded, normalised form.
    Column("name", Text, nullable=False),
    Column("name_key", Text, nullable=False),
    Column("api", String(20), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("extra", LargeBinary),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("resume", String(20), nullable=False),
    Column("max_output_tokens", BigInteger),
    Column("max_continuations", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("on_seam", String(10), nullable=False, server_default="mark"),
    Column("state", String(12), nullable=False),
    Column("owner", String(60)),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("resumes", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("cause", String(40), nullable=False, server_default=""),
    Column("run_at", Float),
    Column("created_at", Float, nullable=False),
    Column("claimed_at", Float),
    Column("claimed_edition", Integer),
    Column("claimed_offset", BigInteger),
    Column("ended_at", Float),
    Column("finish", String(40)),
    Column("error_kind", String(40)),
    Column("error_message", Text),
    Column("bytes", BigInteger),
    Column("sha256", LargeBinary(32)),
    UniqueConstraint("batch_id", "custom_id"),
    UniqueConstraint("output_id", "name_key"),
)
#: What a free slot may take: offered to the fleet by a hint, or not yet.
CLAIMABLE = (JobState.PENDING, JobState.DISPATCHED)


def claimable() -> ColumnElement[bool]:
    """Give the condition that a job may be claimed, written as the index over those says it."""
    return job.c.state.in_([literal_column(f"'{state.value}'") for state in CLAIMABLE])


#: Groups first: a group that is held back (paused, unrevealed) is stepped over with one look.
Index(
    "job_claimable",
    job.c.endpoint_id,
    job.c.batch_id,
    job.c.intake_id,
    job.c.priority.desc(),
    job.c.id,
    sqlite_where=claimable(),
    postgresql_where=claimable(),
)
Index(
    "job_dispatched",
    job.c.run_at,
    sqlite_where=job.c.state == "dispatched",
    postgresql_where=job.c.state == "dispatched",
)
Index(
    "job_due",
    job.c.run_at,
    sqlite_where=job.c.state == "waiting",
    postgresql_where=job.c.state == "waiting",
)
Index(
    "job_waiting",
    job.c.endpoint_id,
    sqlite_where=job.c.state == "waiting",
    postgresql_where=job.c.state == "waiting",
)
Index(
    "job_owned",
    job.c.owner,
    sqlite_where=job.c.owner.is_not(None),
    postgresql_where=job.c.owner.is_not(None),
)
Index(
    "job_complete",
    job.c.id,
    sqlite_where=job.c.state == "complete",
    postgresql_where=job.c.state == "complete",
)
Index(
    "job_failed",
    job.c.error_kind,
    job.c.id,
    sqlite_where=job.c.state == "failed",
    postgresql_where=job.c.state == "failed",
)


def has_state(state: str) -> ColumnElement[bool]:
    """Give the condition that a job is in a state, written so that partial indexes serve it.

    SQLite compares the query's text with the index's: a bound parameter would scan the table.
    """
    return job.c.state == literal_column(f"'{JobState(state).value}'")


#: What changes at every beat: narrow, no secondary index, room to update in place.
checkpoint = Table(
    "checkpoint",
    metadata,
    Column("job_id", _Id, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("edition", Integer, nullable=False),
    Column("text", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("refusal", BigInteger, nullable=False),
    Column("tool", BigInteger, nullable=False),
    Column("furthest", BigInteger, nullable=False),
    Column("stalls", Integer, nullable=False),
    Column("continuations", Integer, nullable=False),
    Column("generated", BigInteger, nullable=False),
    Column("needed", BigInteger, nullable=False),
    Column("rebilled", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("strategy", String(20), nullable=False),
    Column("cursor", Text, nullable=False),
    postgresql_with={"fillfactor": "50"},
)

segment = Table(
    "segment",
    metadata,
    Column("job_id", BigInteger, nullable=False),
    Column("edition", Integer, nullable=False),
    Column("kind", String(10), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("crc", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("segment_place", "job_id", "edition", "kind", "start", unique=True),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("job_id", BigInteger, nullable=False, index=True),
    Column("epoch", Integer, nullable=False),
    Column("worker", String(60)),
    Column("strategy", String(20), nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float, nullable=False),
    #: `finished`, `length`, `interrupted`, `crashed`, `failed`, `given_back`.
    Column("outcome", String(20), nullable=False),
    Column("error_kind", String(40)),
    Column("error_message", Text),
    Column("edition", Integer, nullable=False),
    Column("from_offset", BigInteger, nullable=False),
    Column("to_offset", BigInteger, nullable=False),
    Column("first_token_s", Float),
    Column("request_id", Text),
    Column("generated", BigInteger, nullable=False, server_default="0"),
    Column("rebilled", BigInteger, nullable=False, server_default="0"),
    Column("skipped", Integer, nullable=False, server_default="0"),
)

seam = Table(
    "seam",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("job_id", BigInteger, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("edition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("strategy", String(20), nullable=False),
    Column("cause", String(40), nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("rebilled", BigInteger, nullable=False),
)

worker = Table(
    "worker",
    metadata,
    Column("id", String(60), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(40), nullable=False),
    #: running, draining, gone.
    Column("state", String(12), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("streams", Integer, nullable=False),
    Column("tokens_per_s", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
)

#: Counts as deltas, folded now and then: one hot row per state would make every commit wait.
job_count = Table(
    "job_count",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("batch_id", BigInteger, nullable=False),
    Column("state", String(12), nullable=False),
    Column("jobs", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("generated", BigInteger, nullable=False),
    Column("needed", BigInteger, nullable=False),
    Column("rebilled", BigInteger, nullable=False),
)

rollup = Table(
    "rollup",
    metadata,
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False),
    Column("endpoint_id", BigInteger, primary_key=True, autoincrement=False),
    Column("bytes", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("interrupted", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", String(40), nullable=False),
    Column("scope", Text, nullable=False),
    Column("jobs", BigInteger, nullable=False),
)
