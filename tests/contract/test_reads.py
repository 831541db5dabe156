"""What people and programs are told, over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import GAVE_UP, Seeds
from tokenspool import tables as t
from tokenspool.database import Database, now
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import Completed, JobState, Kind, Resume, Seam
from tokenspool.store import lookup, reads
from tokenspool.store.folding import FOLDED_BYTES, fold_step
from tokenspool.store.following import Position, look
from tokenspool.store.lookup import Filter
from tokenspool.store.oldest import oldest_pending_s
from tokenspool.store.outcomes import outcomes


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def read(database: Database) -> Callable[..., object]:
    """Run one read on a snapshot of its own."""

    def run(operation: Callable[..., object], *args: object, **named: object) -> object:
        with database.read() as connection:
            return operation(connection, *args, **named)

    return run


def status_of(database: Database, batch: int | None = None) -> reads.Status:
    """Ask as the command does."""
    with database.read() as connection:
        return reads.status(connection, batch=batch)


def page_of(database: Database, only: Filter | None = None, **named: int) -> list[str]:
    """List a page's names."""
    with database.read() as connection:
        return [line.custom_id for line in lookup.jobs(connection, only or Filter(), **named)]


def find(database: Database, name: str) -> int:
    """Find a job by what a person calls it."""
    with database.read() as connection:
        return lookup.find_job(connection, name)


# --- status -------------------------------------------------------------------------------------
def test_status_of_nothing_is_all_zero_and_knows_no_speed(database: Database) -> None:
    """An empty database has nothing pending, nobody working and nothing to wait for."""
    status = status_of(database)

    assert status.counts.total == 0
    assert set(status.counts.jobs) == set(JobState)
    assert (status.oldest_pending_s, status.tokens_per_s, status.eta_s) == (None, None, 0.0)
    assert not status.estimated


def test_status_counts_jobs_bytes_and_tokens(database: Database, seeds: Seeds) -> None:
    """Counts come from the deltas that moved the jobs."""
    seeds.done("a", "x" * 100)
    seeds.failed("b", "y" * 10)
    seeds.enqueue("c", "d")
    seeds.enqueue("hidden", batch="later", hidden=True)

    status = status_of(database)

    assert status.counts.total == 4
    assert status.counts.unfinished == 2
    found = {state.value: n for state, n in status.counts.jobs.items() if n}
    assert found == {"done": 1, "failed": 1, "pending": 2}
    assert (status.counts.bytes, status.counts.needed, status.counts.generated) == (110, 110, 110)
    assert status.estimated


def test_status_of_a_batch_leaves_the_others_out(database: Database, seeds: Seeds) -> None:
    """Counts are per batch; the speed of one of several batches is not known."""
    seeds.live_worker(tokens_per_s=10.0)
    seeds.enqueue("a", batch="one")
    seeds.enqueue("b", "c", batch="two")
    with database.read() as connection:
        two = reads.batch_id(connection, "two")

    status = status_of(database, two)

    assert status.counts.total == 2
    assert status.tokens_per_s is None
    assert status_of(database).tokens_per_s == pytest.approx(10.0)


def test_an_unknown_batch_is_named_with_those_there_are(database: Database, seeds: Seeds) -> None:
    """The person sees at once what they may have meant."""
    seeds.enqueue("a", batch="one")

    with pytest.raises(UsageError, match="no batch is called 'on'; there are: 'one'"):
        read(database)(reads.batch_id, "on")


def test_the_oldest_pending_job_is_found_behind_every_priority(
    database: Database, seeds: Seeds
) -> None:
    """The age counts over endpoints and priorities; hidden and running jobs do not."""
    seeds.enqueue("running", created_at=now() - 9000)
    seeds.claim()
    seeds.enqueue("hidden", batch="later", hidden=True, created_at=now() - 5000, priority=9)
    seeds.enqueue("old", created_at=now() - 1000, priority=-5)
    seeds.enqueue("newer", priority=0)
    seeds.enqueue("urgent", priority=7)

    oldest = status_of(database).oldest_pending_s

    assert oldest == pytest.approx(1000, abs=30)


def test_the_oldest_pending_job_may_be_dispatched_or_paused_and_of_any_batch(
    database: Database, seeds: Seeds
) -> None:
    """It has waited all the same; asked for one batch, only its jobs count."""
    seeds.enqueue("new", batch="first")
    seeds.enqueue("offered", batch="second", state="dispatched", created_at=now() - 3000)
    seeds.enqueue("paused", batch="third", created_at=now() - 7000, priority=-1)
    seeds.enqueue("urgent", batch="third", priority=1)
    with database.write() as connection:
        connection.execute(sa.update(t.batch).where(t.batch.c.name == "third").values(paused=True))

    with database.read() as connection:
        ages = [oldest_pending_s(connection, batch=batch) for batch in (None, 1, 2, 3, 4)]

    assert ages == [
        pytest.approx(7000, abs=30),
        pytest.approx(0, abs=30),
        pytest.approx(3000, abs=30),
        pytest.approx(7000, abs=30),
        None,
    ]


def test_only_workers_whose_lease_runs_are_shown(database: Database, seeds: Seeds) -> None:
    """A worker that was killed is not shown as working, and adds no speed."""
    seeds.live_worker("dead", tokens_per_s=99.0)
    seeds.change(t.worker, lease_until=1.0)
    seeds.live_worker("alive", tokens_per_s=5.0)
    with database.write() as connection:
        connection.execute(
            sa.update(t.worker).where(t.worker.c.id == "dead").values(tokens_per_s=99.0)
        )

    status = status_of(database)

    assert [worker.id for worker in status.workers] == ["alive"]
    assert status.tokens_per_s == pytest.approx(5.0)
    assert status.workers[0].heartbeat_s == pytest.approx(0, abs=30)


def test_the_time_to_go_follows_from_speed_and_mean_length(
    database: Database, seeds: Seeds
) -> None:
    """Two of four jobs took 100 tokens each; at 10 tokens/s the other two take about 20 s."""
    seeds.done("a", "x" * 100)
    seeds.done("b", "x" * 100)
    seeds.enqueue("c", "d")
    assert status_of(database).eta_s is None

    seeds.live_worker(tokens_per_s=10.0)

    assert status_of(database).eta_s == pytest.approx(20.0)


def test_an_endpoint_shows_what_runs_on_it(database: Database, seeds: Seeds) -> None:
    """State, reason and jobs in flight."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.enqueue("b")
    seeds.change(t.endpoint, state="down", reason="refused", in_flight_limit=4)

    (endpoint,) = status_of(database).endpoints

    assert (endpoint.state, endpoint.reason, endpoint.limit, endpoint.in_flight) == (
        "down",
        "refused",
        4,
        1,
    )


def test_failures_are_counted_by_kind(database: Database, seeds: Seeds) -> None:
    """What the end of a run groups by."""
    seeds.failed("a")
    seeds.failed("b")
    seeds.done("c", "x")

    assert read(database)(reads.failures) == {ErrorKind.SERVER: 2}


# --- lists and single jobs ----------------------------------------------------------------------
def test_pages_follow_one_another_without_gap_or_double(database: Database, seeds: Seeds) -> None:
    """Keyset paging: behind the last id begins the next page."""
    seeds.enqueue(*(f"j{n}" for n in range(7)))

    pages, after = [], 0
    while page := page_of(database, after=after, limit=3):
        pages.append(page)
        after = find(database, page[-1])

    assert pages == [["j0", "j1", "j2"], ["j3", "j4", "j5"], ["j6"]]


def test_lists_are_filtered_by_state_batch_and_error(database: Database, seeds: Seeds) -> None:
    """Filters add up, and what is still being enqueued is not shown."""
    seeds.done("done", "x")
    seeds.failed("failed")
    seeds.enqueue("other", batch="two")
    seeds.enqueue("hidden", batch="later", hidden=True)
    with database.read() as connection:
        two = reads.batch_id(connection, "two")

    assert page_of(database) == ["done", "failed", "other"]
    assert page_of(database, Filter(state=JobState.DONE)) == ["done"]
    assert page_of(database, Filter(error=ErrorKind.SERVER)) == ["failed"]
    assert page_of(database, Filter(batch_id=two)) == ["other"]
    assert page_of(database, Filter(batch_id=two, state=JobState.DONE)) == []


def test_a_line_says_what_is_kept_and_what_went_wrong(database: Database, seeds: Seeds) -> None:
    """Bytes are those of the checkpoint until the output is published."""
    seeds.failed("a", "some text")

    with database.read() as connection:
        (line,) = lookup.jobs(connection, Filter())

    assert (line.state, line.bytes, line.tokens, line.attempts) == (JobState.FAILED, 9, 9, 1)
    assert (line.error, line.message) == (ErrorKind.SERVER, "the server said no")
    assert "resume --error server" in line.action


def test_a_job_is_found_by_id_and_by_unique_name(database: Database, seeds: Seeds) -> None:
    """Both names of a job mean it."""
    seeds.enqueue("alpha", "beta")

    number = find(database, "beta")

    assert find(database, str(number)) == find(database, f"id:{number}") == number


def test_a_name_of_several_jobs_is_refused_with_the_candidates(
    database: Database, seeds: Seeds
) -> None:
    """The same custom_id in two batches; and a custom_id that is another job's id."""
    seeds.enqueue("same", batch="one")
    seeds.enqueue("same", batch="two")
    first = find_first(database, "same")

    with pytest.raises(
        UsageError, match=r"several jobs; say one of: id:\d+ \('same' in batch 'one'"
    ):
        find(database, "same")

    seeds.enqueue(str(first), batch="three")
    with pytest.raises(UsageError, match="several jobs"):
        find(database, str(first))
    assert find(database, f"id:{first}") == first


def find_first(database: Database, name: str) -> int:
    """Find the oldest of several jobs of one name."""
    with database.read() as connection:
        ids = sa.select(sa.func.min(t.job.c.id)).where(t.job.c.custom_id == name)
        return int(connection.execute(ids).scalar_one())


@pytest.mark.parametrize("name", ["nobody", "99", "id:99", "9" * 40, "id:x", "", "%", "\u0662"])
def test_a_name_of_no_job_is_a_usage_error(database: Database, seeds: Seeds, name: str) -> None:
    """Numbers beyond any id, other scripts' digits and wildcards mean nobody."""
    seeds.enqueue("somebody")

    with pytest.raises(UsageError, match="no job is called"):
        find(database, name)


def test_all_about_a_job_holds_attempts_seams_and_checkpoint(
    database: Database, seeds: Seeds
) -> None:
    """The record is complete and in order."""
    seeds.enqueue("a")
    seeds.claim()
    seam = Seam(edition=1, offset=3, strategy=Resume.PREFILL, cause="network", verified=True)
    seeds.spool("a", "abc")
    seeds.spool("a", "def", ending=Completed(finish="stop"), seam=seam)

    with database.read() as connection:
        detail = lookup.show(connection, 1)

    assert detail.checkpoint is not None
    assert detail.checkpoint.text == 6
    assert [a["outcome"] for a in detail.attempts] == ["finished"]
    assert [(s["offset"], s["strategy"], bool(s["verified"])) for s in detail.seams] == [
        (3, "prefill", True)
    ]
    assert (detail.line.state, detail.line.resumes, detail.model) == (JobState.COMPLETE, 1, "m")


# --- following ----------------------------------------------------------------------------------
def test_a_follower_gets_every_byte_once_and_then_the_end(database: Database, seeds: Seeds) -> None:
    """State and text are of one snapshot: told of the end, it has been told of all the text."""
    seeds.enqueue("a")
    before = look(database, 1, after=Position())
    seeds.claim()
    seeds.spool("a", "one ")
    first = look(database, 1, after=before.position)
    seeds.done("a", "two")
    last = look(database, 1, after=first.position)

    assert (before.data, first.data, last.data) == (b"", b"one ", b"two")
    assert [news.is_last for news in (before, first, last)] == [False, False, True]
    assert str(last.position) == "1:7"


def test_a_long_text_comes_in_pieces_and_across_a_fold(database: Database, seeds: Seeds) -> None:
    """Nobody holds a long text whole; a fold between two looks hides and doubles nothing."""
    whole = "".join(f"{n:08d}" for n in range(3 * FOLDED_BYTES // 8 * 2))
    seeds.enqueue("a")
    seeds.claim()
    for at in range(0, len(whole), 100_000):
        seeds.spool("a", whole[at : at + 100_000])

    seeds.spool("a", ending=GAVE_UP)

    first = look(database, 1, after=Position())
    with database.write() as connection:
        fold_step(connection, 1, edition=1, kind=Kind.TEXT)
    second = look(database, 1, after=first.position)

    assert (first.more, first.is_last) == (True, False)
    assert (second.more, second.is_last) == (False, True)
    assert (first.data + second.data).decode() == whole


def test_a_follower_of_an_older_edition_is_told_to_reset(database: Database, seeds: Seeds) -> None:
    """What it has is not the text any more; it gets the new edition from its beginning."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "old text")
    seeds.change(t.checkpoint, edition=2, text=0)

    news = look(database, 1, after=Position(edition=1, offset=8))

    assert (news.reset, news.data, str(news.position)) == (True, b"", "2:0")
    assert not look(database, 1, after=Position()).reset


# --- outcomes -----------------------------------------------------------------------------------
def test_ended_jobs_come_with_what_belongs_to_their_answer(
    database: Database, seeds: Seeds
) -> None:
    """In the order of their ids, over pages, with request ids and seams."""
    seeds.failed("broken", "part")
    for n in range(120):
        seeds.done(f"d{n}", "x")
    seeds.enqueue("unfinished")

    found = [outcome for _, outcome in outcomes(database)]

    assert [o.custom_id for o in found] == ["broken", *(f"d{n}" for n in range(120))]
    assert (found[0].state, found[0].error) == (JobState.FAILED, ErrorKind.SERVER)
    assert found[1].request_id == "req-1"
    assert (found[1].length, found[1].is_pruned) == (1, False)
    assert GAVE_UP.failure.message == found[0].message
