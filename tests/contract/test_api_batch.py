"""A service that looks at its batch and reads or follows texts, over SQLite and PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tokenspool
from tests.contract.seeds import Seeds
from tokenspool import Batch, JobNotDoneError, JobState, Piece
from tokenspool import jobs as api_jobs
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import ErrorKind, Unavailable, UsageError
from tokenspool.model import Completed
from tokenspool.store import actions
from tokenspool.store.actions import Chosen
from tokenspool.store.prune import prune

WHOLE = Completed(finish="stop")


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


@pytest.fixture
def batch(database: Database, seeds: Seeds) -> Batch:
    """Give the batch `b`, with a job `a` that is claimed."""
    seeds.enqueue("a")
    seeds.claim()
    return tokenspool.open_batch("b", db=database)


class Meanwhile:
    """What happens while somebody waits, one step at each pause; no time passes."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        """Be out of steps at the end: whoever still waits then would wait for ever."""
        self._steps = list(steps)

    def __call__(self, _seconds: float) -> None:
        """Do the next step."""
        self._steps.pop(0)()


def texts(pieces: Iterator[Piece]) -> list[str]:
    """Give what the pieces say, to the end."""
    return [str(piece) for piece in pieces]


def prune_all(seeds: Seeds) -> None:
    """Let the journal forget every ended job's text."""
    prune(seeds.database, older_than_s=-10.0, leftover=lambda _: None, pause=lambda _: None)


# --- the batch ----------------------------------------------------------------------------------
def test_a_batch_counts_and_lists_its_jobs_only(database: Database, seeds: Seeds) -> None:
    """In the order they came; all, or those in one state."""
    seeds.done("a", "x")
    seeds.failed("b", "y")
    seeds.enqueue("c", "hidden-not")
    seeds.enqueue("other", batch="other")

    with tokenspool.open_batch("b", db=database) as batch:
        counts = batch.counts()
        assert (counts.total, counts.jobs[JobState.DONE], counts.bytes) == (4, 1, 2)
        assert [job.custom_id for job in batch.jobs()] == ["a", "b", "c", "hidden-not"]
        assert [job.custom_id for job in batch.jobs(state="failed")] == ["b"]
        failed = batch.job("b")
    assert (failed.state, failed.error, failed.message, failed.finish) == (
        JobState.FAILED,
        ErrorKind.SERVER,
        "the server said no",
        None,
    )


def test_long_lists_come_in_pages(
    database: Database, seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left out or told twice where one page ends."""
    seeds.enqueue(*(f"j{number}" for number in range(6)))
    batch = tokenspool.open_batch("b", db=database)
    for size in (1, 2, 4, 6, 7):
        monkeypatch.setattr("tokenspool.batches._PAGE", size)
        assert [job.custom_id for job in batch.jobs()] == [f"j{n}" for n in range(6)]


def test_unknown_names_are_said(database: Database, batch: Batch, tmp_path: Path) -> None:
    """Batch, job, state and database; a number is a name like any other."""
    with pytest.raises(UsageError, match="no batch is called 'x'; there are: 'b'"):
        tokenspool.open_batch("x", db=database)
    for name in ("nope", "1", "id:1"):
        with pytest.raises(UsageError, match=f"no job is called '{name}' in batch 'b'"):
            batch.job(name)
    with pytest.raises(UsageError, match="there is no state 'x'; there are: pending"):
        list(batch.jobs(state="x"))
    with pytest.raises(UsageError, match="there is no database"):
        tokenspool.open_batch("b", db=tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()


def test_a_batch_is_opened_by_url_as_well(database_url: str, batch: Batch) -> None:
    """Then the connections are its own, and closed with it."""
    with tokenspool.open_batch("b", db=database_url) as other:
        assert other.counts() == batch.counts()


def test_waiting_ends_when_all_jobs_have_ended(batch: Batch, seeds: Seeds) -> None:
    """Done or failed: the counts say which."""
    seeds.enqueue("z")
    seeds.claim()
    happens = Meanwhile(
        lambda: seeds.done("a", "x"), lambda: seeds.spool("z", ending=WHOLE), lambda: cancel(seeds)
    )

    counts = batch.wait(pause=happens)

    assert (counts.jobs[JobState.DONE], counts.jobs[JobState.CANCELLED]) == (1, 1)


def cancel(seeds: Seeds) -> None:
    """Stop all that is unfinished, as a person does."""
    actions.cancel(seeds.database, Chosen(batch_id=1), who="me", pause=lambda _: None)


def test_waiting_ends_when_patience_does(batch: Batch) -> None:
    """With how many are unfinished."""
    with pytest.raises(TimeoutError, match="batch 'b' has 1 unfinished jobs after 0 s"):
        batch.wait(timeout_s=0)


def test_a_batch_is_paused_cancelled_and_resumed(batch: Batch, seeds: Seeds) -> None:
    """As by the commands, with the process on record."""
    assert (batch.pause(), batch.pause()) == (True, False)
    assert batch.cancel() == 1
    assert batch.resume() == 1
    assert seeds.claim() == []
    assert (batch.unpause(), batch.unpause()) == (True, False)
    assert [job.custom_id for job in seeds.claim()] == ["a"]

    rows = seeds.rows(t.audit)
    assert [row["action"] for row in rows] == ["pause", "cancel", "resume", "unpause"]
    assert {row["who"].split("@")[0] for row in rows} == {f"pid {os.getpid()}"}


# --- a text -------------------------------------------------------------------------------------
def test_the_text_of_an_unfinished_job_is_not_passed_off_as_an_answer(
    batch: Batch, seeds: Seeds
) -> None:
    """Whoever wants what there is says so; with its end proven it is the answer."""
    seeds.spool("a", "half")
    job = batch.job("a")
    with pytest.raises(JobNotDoneError, match="job 'a' of batch 'b' is running"):
        job.text()
    assert job.text(partial=True) == "half"

    seeds.spool("a", " and half", ending=WHOLE)
    assert job.refresh().state is JobState.COMPLETE
    assert job.text() == "half and half"


def test_a_failed_jobs_text_is_partial(database: Database, seeds: Seeds) -> None:
    """The error says why."""
    seeds.failed("a", "some")
    job = tokenspool.open_batch("b", db=database).job("a")

    with pytest.raises(JobNotDoneError, match="is failed") as caught:
        job.text()
    assert caught.value.job.error is ErrorKind.SERVER
    assert job.text(partial=True) == "some"


def test_a_pruned_text_is_read_from_its_file(database: Database, seeds: Seeds) -> None:
    """If that is still what was published; else it is said where it was."""
    seeds.done("a", "so löng")
    prune_all(seeds)
    job = tokenspool.open_batch("b", db=database).job("a")

    assert job.text() == "so löng"
    with pytest.raises(Unavailable, match=r"was pruned; it is in .*a\.md: text\(\) reads it"):
        texts(job.follow())
    (seeds.root / "a.md").write_text("else")
    with pytest.raises(Unavailable, match="not what was published any more"):
        job.text()
    (seeds.root / "a.md").unlink()
    with pytest.raises(Unavailable, match="cannot be read here: No such file"):
        job.text()


# --- following ----------------------------------------------------------------------------------
def test_a_follower_gets_the_text_as_it_grows_to_its_proven_end(batch: Batch, seeds: Seeds) -> None:
    """Each byte once; publishing is not waited for."""
    seeds.spool("a", "one ")
    happens = Meanwhile(
        lambda: None,
        lambda: seeds.spool("a", "two "),
        lambda: seeds.spool("a", "three", ending=WHOLE),
    )

    pieces = list(batch.job("a").follow(pause=happens))

    assert [piece.text for piece in pieces] == ["one ", "two ", "three"]
    assert [(piece.edition, piece.end_byte) for piece in pieces] == [(1, 4), (1, 8), (1, 13)]


def test_a_job_can_be_followed_before_it_is_claimed(database: Database, seeds: Seeds) -> None:
    """It has no text and no checkpoint then."""
    seeds.enqueue("a")
    happens = Meanwhile(seeds.claim, lambda: seeds.spool("a", "x", ending=WHOLE))

    assert texts(tokenspool.open_batch("b", db=database).job("a").follow(pause=happens)) == ["x"]


def test_a_follower_that_lost_its_connection_goes_on(batch: Batch, seeds: Seeds) -> None:
    """From the last piece it got, by edition and byte."""
    seeds.spool("a", "one ")
    last = next(iter(batch.job("a").follow()))
    seeds.spool("a", "two", ending=WHOLE)

    again = batch.job("a").follow(last.end_byte, edition=last.edition)

    assert texts(again) == ["two"]


def test_a_follower_is_told_when_the_text_begins_anew(batch: Batch, seeds: Seeds) -> None:
    """What it has is not the text any more."""
    seeds.spool("a", "old text")

    def restart() -> None:
        cancel(seeds)
        actions.resume(
            seeds.database, Chosen(batch_id=1), who="me", restart=True, pause=lambda _: None
        )
        seeds.claim()

    happens = Meanwhile(restart, lambda: seeds.spool("a", "new", ending=WHOLE))

    pieces = list(batch.job("a").follow(pause=happens))

    assert [(p.text, p.edition, p.reset) for p in pieces] == [
        ("old text", 1, False),
        ("", 2, True),
        ("new", 2, False),
    ]
    assert batch.job("a").text() == "new"
    assert [p.reset for p in batch.job("a").follow(3, edition=1)] == [True]


def test_a_follower_of_a_job_that_fails_gets_all_its_text_and_then_the_reason(
    database: Database, seeds: Seeds
) -> None:
    """A truncated answer must not look like a whole one."""
    seeds.failed("a", "some")
    got: list[Piece] = []

    with pytest.raises(JobNotDoneError, match="the server said no") as caught:
        got.extend(tokenspool.open_batch("b", db=database).job("a").follow())
    with pytest.raises(JobNotDoneError):
        next(tokenspool.open_batch("b", db=database).job("a").follow(4))
    assert caught.value.job.state is JobState.FAILED
    # `extend` keeps what it was given before the exception.
    assert texts(iter(got)) == ["some"]


def test_a_piece_never_ends_inside_a_character(
    batch: Batch, seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever one look at the database ends."""
    text = "aé漢🙂" * 3
    seeds.spool("a", text, ending=WHOLE)
    for size in (4, 5, 6, 7):
        monkeypatch.setattr("tokenspool.store.following._AT_ONCE", size)
        pieces = texts(batch.job("a").follow())
        assert len(pieces) > 3
        assert "".join(pieces) == text
        assert batch.job("a").text() == text


def test_following_ends_when_patience_does(batch: Batch, seeds: Seeds) -> None:
    """After what there was."""
    seeds.spool("a", "some")
    following = batch.job("a").follow(timeout_s=0)

    assert next(following).text == "some"
    with pytest.raises(TimeoutError, match="job 'a': no new text for 0 s"):
        next(following)


def test_a_negative_byte_is_refused(batch: Batch) -> None:
    """It is no place in a text."""
    with pytest.raises(UsageError, match="from_byte counts from the beginning"):
        next(batch.job("a").follow(-1))


async def test_an_event_loop_follows_as_well(
    batch: Batch, seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pieces, the same ends."""
    monkeypatch.setattr(api_jobs, "LOOK_S", 0.0)
    seeds.spool("a", "one ")
    pieces = []
    async for piece in batch.job("a").afollow():
        pieces.append(piece.text)
        if piece.text == "one ":
            seeds.spool("a", "two", ending=WHOLE)
    assert pieces == ["one ", "two"]

    seeds.failed("f", "x")
    with pytest.raises(JobNotDoneError):
        _ = [piece async for piece in batch.job("f").afollow()]
    seeds.enqueue("p")
    with pytest.raises(TimeoutError):
        _ = [piece async for piece in batch.job("p").afollow(timeout_s=0)]
