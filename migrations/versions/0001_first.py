"""Make the first tables.

What old code sees while this runs: there is none; a database without these tables is new.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: SQLite makes only INTEGER PRIMARY KEY an alias of its rowid.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table and index."""
    _batches()
    _endpoints()
    _jobs()
    _job_indexes()
    _text()
    _history()
    _workers()
    _counts()


def _batches() -> None:
    op.create_table(
        "batch",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.String(400), nullable=False, unique=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    op.create_table(
        "intake",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revealed", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    op.create_table(
        "output",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("root", sa.Text(), nullable=False, unique=True),
    )


def _endpoints() -> None:
    op.create_table(
        "endpoint",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("api_key_env", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False, server_default="up"),
        sa.Column("reason", sa.Text()),
        sa.Column("retry_at", sa.Float()),
        sa.Column("in_flight_limit", sa.Integer()),
        sa.Column("resumes_by", sa.String(40), nullable=False, server_default=""),
        sa.Column("deterministic", sa.Boolean()),
        sa.Column("probed_at", sa.Float()),
        sa.UniqueConstraint("url", "model", "api_key_env"),
        sqlite_autoincrement=True,
    )


def _jobs() -> None:
    op.create_table(
        "job",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("intake_id", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("output_id", sa.BigInteger(), nullable=False),
        sa.Column("custom_id", sa.String(200), nullable=False),
        sa.Column("content", sa.LargeBinary(16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(), nullable=False),
        sa.Column("api", sa.String(20), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("extra", sa.LargeBinary()),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("resume", sa.String(20), nullable=False),
        sa.Column("max_output_tokens", sa.BigInteger()),
        sa.Column("max_continuations", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("on_seam", sa.String(10), nullable=False, server_default="mark"),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("owner", sa.String(60)),
        sa.Column("epoch", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("resumes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("cause", sa.String(40), nullable=False, server_default=""),
        sa.Column("run_at", sa.Float()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("claimed_at", sa.Float()),
        sa.Column("claimed_edition", sa.Integer()),
        sa.Column("claimed_offset", sa.BigInteger()),
        sa.Column("ended_at", sa.Float()),
        sa.Column("finish", sa.String(40)),
        sa.Column("error_kind", sa.String(40)),
        sa.Column("error_message", sa.Text()),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("sha256", sa.LargeBinary(32)),
        sa.UniqueConstraint("batch_id", "custom_id"),
        sa.UniqueConstraint("output_id", "name_key"),
    )


def _job_indexes() -> None:
    _partial("job_ready", ["endpoint_id", sa.text("priority DESC"), "id"], "state = 'pending'")
    _partial("job_due", ["run_at"], "state = 'waiting'")
    _partial("job_waiting", ["endpoint_id"], "state = 'waiting'")
    _partial("job_owned", ["owner"], "owner IS NOT NULL")
    _partial("job_complete", ["id"], "state = 'complete'")
    _partial("job_failed", ["error_kind", "id"], "state = 'failed'")


def _partial(name: str, columns: list[str | sa.TextClause], where: str) -> None:
    """Index the jobs of one state only: most jobs are done, and those nobody looks for."""
    condition = sa.text(where)
    op.create_index(name, "job", columns, sqlite_where=condition, postgresql_where=condition)


def _text() -> None:
    op.create_table(
        "checkpoint",
        sa.Column("job_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("edition", sa.Integer(), nullable=False),
        sa.Column("text", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("refusal", sa.BigInteger(), nullable=False),
        sa.Column("tool", sa.BigInteger(), nullable=False),
        sa.Column("furthest", sa.BigInteger(), nullable=False),
        sa.Column("stalls", sa.Integer(), nullable=False),
        sa.Column("continuations", sa.Integer(), nullable=False),
        sa.Column("generated", sa.BigInteger(), nullable=False),
        sa.Column("needed", sa.BigInteger(), nullable=False),
        sa.Column("rebilled", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("strategy", sa.String(20), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        # Room to update in place: every beat writes these rows.
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "segment",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("edition", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("crc", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )
    place = ["job_id", "edition", "kind", "start"]
    op.create_index("segment_place", "segment", place, unique=True)


def _history() -> None:
    op.create_table(
        "attempt",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(60)),
        sa.Column("strategy", sa.String(20), nullable=False),
        sa.Column("started_at", sa.Float()),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("error_kind", sa.String(40)),
        sa.Column("error_message", sa.Text()),
        sa.Column("edition", sa.Integer(), nullable=False),
        sa.Column("from_offset", sa.BigInteger(), nullable=False),
        sa.Column("to_offset", sa.BigInteger(), nullable=False),
        sa.Column("first_token_s", sa.Float()),
        sa.Column("request_id", sa.Text()),
        sa.Column("generated", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("rebilled", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("skipped", sa.Integer(), nullable=False, server_default="0"),
    )
    op.create_index("ix_attempt_job_id", "attempt", ["job_id"])
    op.create_table(
        "seam",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("edition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("strategy", sa.String(20), nullable=False),
        sa.Column("cause", sa.String(40), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("rebilled", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_seam_job_id", "seam", ["job_id"])
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
    )


def _workers() -> None:
    op.create_table(
        "worker",
        sa.Column("id", sa.String(60), primary_key=True),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("streams", sa.Integer(), nullable=False),
        sa.Column("tokens_per_s", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
    )


def _counts() -> None:
    op.create_table(
        "job_count",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("generated", sa.BigInteger(), nullable=False),
        sa.Column("needed", sa.BigInteger(), nullable=False),
        sa.Column("rebilled", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "rollup",
        sa.Column("minute", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("batch_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("endpoint_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("interrupted", sa.BigInteger(), nullable=False),
    )
