"""What a rerun may change about a job, and what an enqueue may be told at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.desk import QUICK, Desk, many, prompts
from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.errors import UsageError
from tokenspool.inputs import BadLine, JobSpec
from tokenspool.model import Resume
from tokenspool.store.intake import Enqueued, JobOptions, enqueue

NEW = JobOptions(
    base_url="http://other/v1",
    api_key_env="OTHER_KEY",
    resume=Resume.RESTART,
    max_continuations=1,
    max_attempts=9,
    on_seam="fail",
)


def test_a_rerun_gives_unfinished_jobs_the_options_of_now(desk: Desk) -> None:
    """Address, key, strategy, allowances, priority, budget and metadata; the content stays."""
    desk.take(*prompts("a"))
    before = desk.rows()[0]

    line = {**prompts("a")[0], "priority": 4, "max_output_tokens": 5, "metadata": {"x": 1}}
    answer = desk.take(line, options=NEW, name="two")

    (row,) = desk.rows()
    endpoint = next(one for one in desk.rows(t.endpoint) if one["id"] == row["endpoint_id"])
    assert answer == Enqueued(updated=1, accepted=True)
    assert (endpoint["url"], endpoint["api_key_env"]) == ("http://other/v1", "OTHER_KEY")
    assert (row["resume"], row["on_seam"]) == ("restart", "fail")
    assert (row["max_continuations"], row["max_attempts"]) == (1, 9)
    assert (row["priority"], row["max_output_tokens"]) == (4, 5)
    assert json.loads(row["extra"])["metadata"] == {"x": 1}
    assert (row["id"], row["state"], row["body"]) == (before["id"], "pending", before["body"])
    assert desk.pending() == 1


def test_metadata_may_be_corrected_later(desk: Desk) -> None:
    """It is no content; a line that merely stands elsewhere now is no change."""
    desk.take(*prompts("a", metadata={"x": 1}))

    moved = desk.take(*prompts("a", metadata={"x": 1}), name="two")
    corrected = desk.take(*prompts("a", metadata={"x": 2}), name="two")

    assert (moved.same, moved.updated) == (1, 0)
    assert (corrected.same, corrected.updated) == (0, 1)
    assert json.loads(desk.rows()[0]["extra"])["metadata"] == {"x": 2}


def test_a_rerun_is_settled_by_the_second_time(desk: Desk) -> None:
    """Once renewed, the same options are the same."""
    desk.take(*many(1_100))

    first = desk.take(*many(1_100), options=NEW)
    second = desk.take(*many(1_100), options=NEW)

    assert (first.updated, second.same) == (1_100, 1_100)


def test_what_is_done_keeps_what_it_was_done_with(desk: Desk, tmp_path: Path) -> None:
    """A finished job is not rewritten; a failed one is, since it may be resumed."""
    seeds = Seeds(database=desk.database, root=tmp_path)
    desk.take(*prompts("a", "b"), root=str(tmp_path))
    seeds.claim()
    seeds.done("a", "text")
    seeds.change(t.job, error_kind=None)
    with desk.database.write() as connection:
        failed = sa.update(t.job).where(t.job.c.custom_id == "b")
        connection.execute(failed.values(state="failed", owner=None))

    answer = desk.take(*prompts("a", "b"), root=str(tmp_path), options=NEW)

    resume = {row["custom_id"]: row["resume"] for row in desk.rows()}
    assert (answer.same, answer.updated) == (1, 1)
    assert resume == {"a": "auto", "b": "restart"}


def test_a_job_that_is_done_in_the_meantime_is_not_changed_any_more(desk: Desk) -> None:
    """What was judged unfinished while reading may have ended before its change is made."""
    desk.take(*prompts("a"))

    def lines() -> Iterator[JobSpec | BadLine]:
        yield from desk.lines(*prompts("a"), *many(1_000))
        with desk.database.write() as connection:
            connection.execute(
                sa.update(t.job).where(t.job.c.custom_id == "a").values(state="done")
            )

    enqueue(desk.database, "b", "/out", lines(), NEW, listener=QUICK)

    assert desk.rows()[0]["resume"] == "auto"


def test_options_are_not_changed_when_a_line_is_bad(desk: Desk) -> None:
    """Nothing means nothing, for jobs that are there, too."""
    desk.take(*prompts("a"))
    before = desk.rows()

    answer = desk.take(*prompts("a"), {"prompt": 5}, options=NEW)

    assert not answer.accepted
    assert desk.rows() == before


def test_a_job_does_not_move_to_another_output(desk: Desk) -> None:
    """Another file or folder for a known job is an error that names both."""
    desk.take(*prompts("a"))

    renamed = desk.take(*prompts("a", output="other.md"))
    moved = desk.take(*prompts("a"), root="/elsewhere")
    twice = desk.take(*prompts("n"), *prompts("n", output="m.md"), name="two")

    assert "writes to 'a.md', not to 'other.md'" in str(renamed.errors[0])
    assert "writes below /out, not below /elsewhere" in str(moved.errors[0])
    assert "writes to 'n.md', not to 'm.md'" in str(twice.errors[0])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "https://",
        "https://user:sk-secret@host/v1",
        "https://sk-secret@host/v1",
        "https://host/v1?key=sk-secret",
        "https://host/v1#sk-secret",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://ho st/v1",
        "http://host/v1\n",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    """It would be kept and shown; the sentence does not repeat it."""
    with pytest.raises(UsageError) as caught:
        JobOptions(base_url=url)

    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"api_key_env": "sk-proj-1"}, "the name of an environment variable"),
        ({"api_key_env": ""}, "the name of an environment variable"),
        ({"on_seam": "ignore"}, "--on-seam is mark or fail"),
        ({"max_attempts": 0}, "--max-attempts must be"),
        ({"max_continuations": 2**31}, "--max-continuations must be"),
    ],
)
def test_options_that_the_database_cannot_keep_are_refused(asked: dict[str, Any], why: str) -> None:
    """Before anything is read; a key given in place of its name is not repeated."""
    with pytest.raises(UsageError, match=why) as caught:
        JobOptions(base_url="http://host/v1", **asked)

    assert "sk-proj-1" not in str(caught.value)


def test_a_batch_must_have_a_name_that_can_be_shown(desk: Desk) -> None:
    """It is asked for before anything is read."""
    with pytest.raises(UsageError, match="batch name"):
        desk.take(*prompts("a"), batch="a\x1bb")

    assert desk.is_untouched()
