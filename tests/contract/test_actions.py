"""What people do to many jobs, over SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import GAVE_UP, Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import Completed, Failure, JobState, Kind
from tokenspool.store import actions, claims, reads
from tokenspool.store.actions import Chosen
from tokenspool.store.prune import Leftover, Pruned, prune
from tokenspool.store.publishing import mark_failed

DAY = 86_400.0


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def resume(database: Database, chosen: Chosen, *, restart: bool = False) -> int:
    """Resume without waiting between the steps."""
    return actions.resume(database, chosen, who="me", restart=restart, pause=lambda _: None)


def cancel(database: Database, chosen: Chosen) -> int:
    """Cancel without waiting between the steps."""
    return actions.cancel(database, chosen, who="me", pause=lambda _: None)


def counts(database: Database) -> dict[str, int]:
    """Give the counts that are not zero."""
    with database.read() as connection:
        found = reads.counts(connection)
    return {state.value: jobs for state, jobs in found.jobs.items() if jobs}


def states(seeds: Seeds) -> dict[str, str]:
    """Give the state of each job by its name."""
    return {row["custom_id"]: row["state"] for row in seeds.rows(t.job)}


ALL_FAILED = Chosen(failed_only=True)


# --- choosing -----------------------------------------------------------------------------------
def test_an_empty_choice_is_refused() -> None:
    """A bulk action without a condition must never come to mean every job."""
    with pytest.raises(UsageError, match="say which jobs"):
        Chosen()


def test_conditions_add_up(database: Database, seeds: Seeds) -> None:
    """A batch and an error kind: only what is both."""
    seeds.failed("a", batch="one")
    seeds.failed("b", batch="two")
    with database.read() as connection:
        two = reads.batch_id(connection, "two")

    assert resume(database, Chosen(batch_id=two, error=ErrorKind.NETWORK)) == 0
    assert resume(database, Chosen(batch_id=two, error=ErrorKind.SERVER)) == 1
    assert states(seeds) == {"a": "failed", "b": "pending"}


# --- resume -------------------------------------------------------------------------------------
def test_resume_renews_the_allowances_and_keeps_the_text(database: Database, seeds: Seeds) -> None:
    """Attempts, stalls, crashes and continuations begin anew; text and checkpoint stay."""
    seeds.failed("a", "some text")
    seeds.change(t.job, crashes=3)
    seeds.change(t.checkpoint, stalls=5, continuations=64, furthest=9)

    assert resume(database, ALL_FAILED) == 1

    row, checkpoint = seeds.row("a"), seeds.checkpoint("a")
    assert (row["state"], row["attempts"], row["crashes"]) == ("pending", 0, 0)
    assert (row["error_kind"], row["ended_at"], row["finish"]) == (None, None, None)
    assert (checkpoint["stalls"], checkpoint["continuations"]) == (0, 0)
    assert (checkpoint["text"], checkpoint["furthest"], checkpoint["edition"]) == (9, 9, 1)
    assert counts(database) == {"pending": 1}
    assert seeds.claim()[0].checkpoint.text == 9


def test_resume_all_failed_leaves_what_a_person_cancelled(database: Database, seeds: Seeds) -> None:
    """--all-failed means failed; --batch and --job mean cancelled ones too."""
    seeds.failed("a")
    seeds.enqueue("b", "c")
    cancel(database, Chosen(job_id=seeds.row("b")["id"]))
    cancel(database, Chosen(job_id=seeds.row("c")["id"]))

    assert resume(database, ALL_FAILED) == 1
    assert states(seeds) == {"a": "pending", "b": "cancelled", "c": "cancelled"}
    assert resume(database, Chosen(job_id=seeds.row("b")["id"])) == 1
    assert resume(database, Chosen(error=ErrorKind.CANCELLED)) == 1
    assert counts(database) == {"pending": 3}


def test_resume_touches_nothing_that_is_done_or_under_way(database: Database, seeds: Seeds) -> None:
    """Only failed and cancelled jobs can be resumed, whatever is chosen."""
    seeds.enqueue("running")
    seeds.claim()
    seeds.done("done", "x")
    seeds.enqueue("pending")
    before = seeds.rows(t.job)

    assert resume(database, Chosen(batch_id=1)) == 0

    assert seeds.rows(t.job) == before
    assert seeds.rows(t.audit) == []


def test_restart_begins_a_new_edition_and_keeps_the_old_text(
    database: Database, seeds: Seeds
) -> None:
    """Edition and epoch rise, the position is zero; what it cost to generate still counts."""
    seeds.failed("a", "some text")
    old = seeds.jobs["a"]

    assert resume(database, ALL_FAILED, restart=True) == 1

    checkpoint = seeds.checkpoint("a")
    assert (checkpoint["edition"], checkpoint["text"], checkpoint["furthest"]) == (2, 0, 0)
    assert checkpoint["epoch"] == seeds.row("a")["epoch"] == old.epoch + 1
    assert (checkpoint["generated"], checkpoint["needed"]) == (9, 0)
    assert len(seeds.rows(t.segment)) == 1
    with database.read() as connection:
        found = reads.counts(connection)
    assert (found.bytes, found.generated, found.needed) == (0, 9, 0)
    assert seeds.claim()[0].checkpoint.edition == 2


def test_a_job_without_a_checkpoint_is_cancelled_and_resumed_too(
    database: Database, seeds: Seeds
) -> None:
    """What was never claimed has no checkpoint row, and needs none."""
    seeds.enqueue("a")

    assert cancel(database, Chosen(batch_id=1)) == 1
    assert resume(database, Chosen(batch_id=1), restart=True) == 1
    assert seeds.claim()[0].checkpoint.text == 0


# --- what is whole already ------------------------------------------------------------------------
def give_up_publishing(database: Database, seeds: Seeds, name: str) -> None:
    """Let the output of a complete job be given up."""
    failure = Failure(kind=ErrorKind.STORAGE, message="the output refuses")
    with database.write() as connection:
        mark_failed(connection, job=seeds.jobs[name], failure=failure)


def test_a_whole_answer_is_published_not_asked_for_again(database: Database, seeds: Seeds) -> None:
    """Cancelled or given up while publishing: a model must not add to a finished text."""
    seeds.enqueue("cancelled", "failed")
    seeds.claim()
    for name in ("cancelled", "failed"):
        seeds.spool(name, "whole", ending=Completed(finish="stop"))
    cancel(database, Chosen(job_id=seeds.row("cancelled")["id"]))
    give_up_publishing(database, seeds, "failed")

    assert resume(database, Chosen(batch_id=1)) == 2

    for name in ("cancelled", "failed"):
        row = seeds.row(name)
        assert (row["state"], row["owner"], row["finish"]) == ("complete", None, "stop")
        assert (row["error_kind"], row["ended_at"], row["bytes"]) == (None, None, 5)
    assert counts(database) == {"complete": 2}
    assert seeds.claim() == []
    with database.write() as connection:
        claimed = claims.claim_complete(connection, worker="w", limit=10)
    assert [(job.complete, job.checkpoint.text) for job in claimed] == [(True, 5)] * 2


def test_a_restart_asks_again_for_what_was_whole(database: Database, seeds: Seeds) -> None:
    """The new edition has proven nothing: cut and resumed, it is asked to go on."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "whole", ending=Completed(finish="stop"))
    give_up_publishing(database, seeds, "a")

    assert resume(database, ALL_FAILED, restart=True) == 1

    row = seeds.row("a")
    assert (row["state"], row["finish"], row["bytes"]) == ("pending", None, None)
    seeds.claim()
    cancel(database, Chosen(batch_id=1))
    assert resume(database, Chosen(batch_id=1)) == 1
    assert counts(database) == {"pending": 1}


def test_a_pruned_answer_is_whole_no_more(database: Database, seeds: Seeds) -> None:
    """Nothing is left to publish, so a resume asks again rather than publish an empty file."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "whole", ending=Completed(finish="stop"))
    give_up_publishing(database, seeds, "a")
    age(seeds, 31)
    pruned(database)

    assert resume(database, ALL_FAILED) == 1
    assert counts(database) == {"pending": 1}


# --- cancel -------------------------------------------------------------------------------------
def test_cancel_takes_the_job_from_whoever_works_on_it(database: Database, seeds: Seeds) -> None:
    """The fence: after a cancel the worker's next beat commits nothing of that job."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "some ")

    assert cancel(database, Chosen(batch_id=1)) == 1

    assert not seeds.spool("a", "text", ending=Completed(finish="stop"))
    row, checkpoint = seeds.row("a"), seeds.checkpoint("a")
    assert (row["state"], row["owner"], row["error_kind"]) == ("cancelled", None, "cancelled")
    assert (checkpoint["text"], checkpoint["epoch"]) == (5, row["epoch"])
    assert counts(database) == {"cancelled": 1}
    assert resume(database, Chosen(batch_id=1)) == 1
    assert seeds.claim()[0].checkpoint.text == 5


def test_cancel_takes_every_unfinished_state_and_no_other(database: Database, seeds: Seeds) -> None:
    """Pending, running, waiting and complete; done and failed stay; hidden ones are not there."""
    seeds.enqueue("running", "waiting", "complete")
    seeds.claim()
    seeds.spool("complete", "x", ending=Completed(finish="stop"))
    with database.write() as connection:
        connection.execute(
            sa.update(t.job).where(t.job.c.custom_id == "waiting").values(state="waiting")
        )
    seeds.done("done", "x")
    seeds.failed("failed")
    seeds.enqueue("pending")
    seeds.enqueue("hidden", batch="later", hidden=True)

    assert cancel(database, Chosen(batch_id=1)) == 4

    assert states(seeds) == {
        "running": "cancelled",
        "waiting": "cancelled",
        "complete": "cancelled",
        "done": "done",
        "failed": "failed",
        "pending": "cancelled",
        "hidden": "pending",
    }
    assert cancel(database, Chosen(batch_id=2)) == 0


# --- steps --------------------------------------------------------------------------------------
def test_a_bulk_action_is_many_short_steps_with_pauses_and_one_audit_row(
    database: Database, seeds: Seeds
) -> None:
    """2,500 jobs take several transactions of at most 1,000 rows; each is followed by a pause."""
    seeds.enqueue(*(f"j{n}" for n in range(2500)))
    pauses: list[float] = []
    told: list[int] = []

    moved = actions.cancel(
        database, Chosen(batch_id=1), who="me", pause=pauses.append, progress=told.append
    )

    steps = [b - a for a, b in zip([0, *told], told, strict=False)]
    assert moved == told[-1] == 2500
    assert max(steps) <= actions.STEP_ROWS
    assert len(pauses) == len(steps) >= 3
    (audit,) = seeds.rows(t.audit)
    assert (audit["who"], audit["action"], audit["scope"], audit["jobs"]) == (
        "me",
        "cancel",
        "batch=1",
        2500,
    )
    assert counts(database) == {"cancelled": 2500}


def test_two_bulk_actions_at_once_leave_counts_that_agree_with_the_rows(
    database: Database, seeds: Seeds
) -> None:
    """A resume and a cancel of the same jobs cross without a deadlock or a miscount."""
    for n in range(60):
        seeds.enqueue(f"j{n}")
    cancel(database, Chosen(batch_id=1))
    failures: list[BaseException] = []

    def work(action: str) -> None:
        try:
            for _ in range(5):
                (resume if action == "resume" else cancel)(database, Chosen(batch_id=1))
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("resume", "cancel")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)

    assert failures == []
    by_state: dict[str, int] = {}
    for state in states(seeds).values():
        by_state[state] = by_state.get(state, 0) + 1
    assert counts(database) == by_state


# --- prune --------------------------------------------------------------------------------------
def pruned(database: Database, days: float = 30) -> tuple[Pruned, list[Leftover]]:
    """Prune without waiting between the steps."""
    left: list[Leftover] = []
    result = prune(database, older_than_s=days * DAY, leftover=left.append, pause=lambda _: None)
    return result, left


def age(seeds: Seeds, days: float) -> None:
    """Let time pass since the jobs ended."""
    seeds.change(t.job, ended_at=t.job.c.ended_at - days * DAY)


def test_prune_lets_go_of_old_text_and_keeps_what_proves_the_output(
    database: Database, seeds: Seeds
) -> None:
    """A done job's segments go, of every kind; row, length and digest stay."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "thoughts", kind=Kind.REASONING)
    seeds.done("a", "text")
    age(seeds, 31)
    seeds.done("young", "text")

    result, left = pruned(database)

    assert (result.jobs, result.bytes, left) == (1, 12, [])
    assert [row["job_id"] for row in seeds.rows(t.segment)] == [2]
    row = seeds.row("a")
    assert (row["state"], row["bytes"]) == ("done", 4)
    assert row["sha256"] is not None
    with database.read() as connection:
        assert reads.counts(connection).bytes == 8
    assert pruned(database)[0].jobs == 0


def test_prune_of_a_failed_job_begins_a_new_edition(database: Database, seeds: Seeds) -> None:
    """Its text is gone, so a resume begins from zero, and its parts are named to be removed."""
    seeds.failed("a", "some text")
    epoch = seeds.jobs["a"].epoch
    age(seeds, 31)

    result, left = pruned(database)

    assert result.jobs == 1
    assert [(one.name, one.epoch) for one in left] == [("a.md", epoch)]
    checkpoint = seeds.checkpoint("a")
    assert (checkpoint["edition"], checkpoint["text"], checkpoint["needed"]) == (2, 0, 0)
    assert resume(database, ALL_FAILED) == 1
    assert seeds.claim()[0].checkpoint.text == 0


def test_prune_spares_the_text_of_a_job_that_is_resumed_meanwhile(
    database: Database, seeds: Seeds
) -> None:
    """Between two steps a person resumes the job and it writes: that text is of a new edition."""
    seeds.failed("a", "old text")
    age(seeds, 31)

    def resumed(_: Leftover) -> None:
        resume(database, ALL_FAILED)
        seeds.claim()
        seeds.spool("a", "new")

    result = prune(database, older_than_s=DAY, leftover=resumed, pause=lambda _: None)

    assert result.bytes == 8
    assert [row["data"] for row in seeds.rows(t.segment)] == [b"new"]


def test_prune_leaves_unfinished_jobs_and_their_old_editions(
    database: Database, seeds: Seeds
) -> None:
    """What is not ended may still be asked about."""
    seeds.failed("a", "some text")
    age(seeds, 31)
    resume(database, ALL_FAILED, restart=True)

    assert pruned(database)[0].jobs == 0
    assert len(seeds.rows(t.segment)) == 1


def test_a_prune_that_died_in_the_middle_is_finished_by_the_next(
    database: Database, seeds: Seeds
) -> None:
    """The checkpoint moves first; segments left behind belong to an old edition and go later."""
    for n in range(3):
        seeds.done(f"j{n}", "text")
    age(seeds, 31)

    class DeathError(Exception):
        """Dies after the first step."""

    def die(_seconds: float) -> None:
        raise DeathError

    with pytest.raises(DeathError):
        prune(database, older_than_s=DAY, leftover=lambda _: None, pause=die)
    assert len(seeds.rows(t.segment)) == 2

    assert pruned(database)[0].jobs == 2
    assert seeds.rows(t.segment) == []


def test_a_long_text_is_deleted_in_bounded_steps(database: Database, seeds: Seeds) -> None:
    """At most 8 MiB a transaction: a beat never waits long for a prune."""
    seeds.enqueue("a")
    seeds.claim()
    for _ in range(5):
        seeds.spool("a", "x" * 3 * 1024 * 1024)
    seeds.spool("a", ending=GAVE_UP)
    age(seeds, 31)
    pauses: list[float] = []

    result = prune(database, older_than_s=DAY, leftover=lambda _: None, pause=pauses.append)

    assert result.bytes == 15 * 1024 * 1024
    assert len(pauses) == 3


def test_states_that_can_be_moved_are_those_of_the_table_of_moves() -> None:
    """Nothing here invents a move."""
    assert set(actions._RESUMABLE) == {JobState.FAILED, JobState.CANCELLED}
    assert JobState.DONE not in actions._CANCELLABLE
    assert JobState.COMPLETE in actions._CANCELLABLE
