"""Taking jobs in: all of an input, once, or nothing of it."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest

from tests.contract.desk import OPTIONS, QUICK, Desk, many, prompts
from tokenspool import tables as t
from tokenspool.errors import UsageError
from tokenspool.inputs import BadLine, JobSpec
from tokenspool.model import Resume
from tokenspool.store.intake import Enqueued, JobOptions, Listener, enqueue


def test_new_jobs_are_pending_counted_and_claimable(desk: Desk) -> None:
    """All that a worker and `status` need is there."""
    answer = desk.take(*prompts("a", "b"))

    assert answer == Enqueued(new=2, accepted=True)
    assert desk.pending() == 2
    assert desk.claim() == ["a", "b"]


def test_a_job_is_kept_as_it_was_asked_for(desk: Desk) -> None:
    """Every column, from the line, the options and the places made for it."""
    options = JobOptions(
        base_url="https://Host.example:8443/v1/",
        api_key_env="MY_KEY",
        resume=Resume.PREFILL,
        max_continuations=3,
        max_attempts=2,
        on_seam="fail",
    )
    line = {
        "custom_id": "Ä",
        "prompt": "x\x00y",
        "model": "big",
        "priority": 7,
        "max_output_tokens": 99,
        "metadata": {"k": [1]},
        "output": "Sub/Ä.txt",
    }

    desk.take(line, options=options, root="/data")

    (row,) = desk.rows()
    (endpoint,) = desk.rows(t.endpoint)
    (batch,) = desk.rows(t.batch)
    (output,) = desk.rows(t.output)
    (intake,) = desk.rows(t.intake)
    assert json.loads(row["body"])["messages"] == [{"role": "user", "content": "x\x00y"}]
    assert json.loads(row["extra"]) == {
        "metadata": {"k": [1]},
        "line": f"{desk.folder}/in.jsonl:1",
    }
    assert (row["custom_id"], row["name"], row["name_key"]) == ("Ä", "Sub/Ä.txt", "sub/ä.txt")
    assert (row["api"], row["state"], row["epoch"], row["owner"]) == ("chat", "pending", 0, None)
    assert (row["priority"], row["max_output_tokens"]) == (7, 99)
    assert (row["resume"], row["on_seam"]) == ("prefill", "fail")
    assert (row["max_continuations"], row["max_attempts"]) == (3, 2)
    assert len(row["content"]) == 16
    assert row["endpoint_id"] == endpoint["id"]
    assert (row["batch_id"], row["output_id"]) == (batch["id"], output["id"])
    assert (row["intake_id"], row["created_at"]) == (intake["id"], intake["created_at"])
    assert (endpoint["url"], endpoint["model"]) == ("https://host.example:8443/v1", "big")
    assert (endpoint["api_key_env"], endpoint["state"]) == ("MY_KEY", "up")
    assert (batch["name"], output["root"]) == ("b", "/data")
    assert desk.rows(t.checkpoint) == []


def test_an_endpoint_is_one_per_address_model_and_key(desk: Desk) -> None:
    """Jobs and later enqueues share it."""
    desk.take(*prompts("a", "b"), *prompts("c", model="other"))
    desk.take(*prompts("d"), *prompts("e", model="other"), name="two")

    assert len(desk.rows(t.endpoint)) == 2
    assert len({row["endpoint_id"] for row in desk.rows()}) == 2


def test_an_input_of_many_transactions_is_all_there(desk: Desk) -> None:
    """Beyond 1,000 lines, in the order of the lines."""
    answer = desk.take(*many(2_500))

    assert answer.new == 2_500
    assert desk.ids() == [f"job-{number:05}" for number in range(2_500)]
    assert desk.pending() == 2_500


def test_no_transaction_takes_more_than_a_step(desk: Desk) -> None:
    """A beat that waits for a file waits for 1,000 rows at most; a server takes 2,000 at once."""
    most = 1000 if desk.database.kind == "sqlite" else 2000
    sizes: list[int] = []

    def count(progress: Enqueued) -> None:
        sizes.append(progress.lines - sum(sizes))

    desk.take(*many(8_500), listener=Listener(progress=count, pause=lambda _: None))

    assert sum(sizes) == 8_500
    assert max(sizes) <= most


def test_large_requests_are_gathered_by_their_bytes(desk: Desk) -> None:
    """Ten lines of a megabyte are not held at once."""
    big = "x" * 1_000_000
    sizes: list[int] = []
    listener = Listener(progress=lambda now: sizes.append(now.lines), pause=lambda _: None)

    desk.take(*prompts(*"abcdefghij", metadata={}, system=big), listener=listener)

    assert sizes[-1] == 10
    assert all(after - before <= 5 for before, after in pairwise([0, *sizes]))


# On PostgreSQL a writer is in nobody's way.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_database_is_left_free_for_as_long_as_it_was_held(desk: Desk) -> None:
    """Between two transactions others get their turn."""
    pauses: list[float] = []

    desk.take(*many(3_000), listener=Listener(pause=pauses.append))

    assert all(0 < pause <= 0.1 for pause in pauses)
    assert pauses


def test_nothing_is_seen_before_everything_is_there(desk: Desk) -> None:
    """Neither workers nor `status` see a part of an enqueue."""
    seen: list[tuple[int, list[str]]] = []

    def look(_: Enqueued) -> None:
        seen.append((desk.pending(), desk.claim()))

    desk.take(*many(1_500), listener=Listener(progress=look, pause=lambda _: None))

    assert seen
    assert set(map(repr, seen)) == {"(0, [])"}
    assert desk.pending() == 1_500


@pytest.mark.parametrize("at", [0, 700, 1_499])
def test_one_bad_line_keeps_all_out(desk: Desk, at: int) -> None:
    """Wherever it stands; afterwards the database is as it was, down to its last row."""
    lines = many(1_500)
    lines[at] = {"prompt": 5}

    answer = desk.take(*lines)

    assert not answer.accepted
    assert (answer.new, answer.invalid) == (1_499, 1)
    assert [line.line for line in answer.errors] == [at + 1]
    assert desk.is_untouched()


def test_an_abandoned_enqueue_leaves_other_jobs_alone(desk: Desk) -> None:
    """Their batch, their counts and their rows stay."""
    desk.take(*prompts("a", "b"))
    before = desk.rows()

    desk.take(*prompts("c"), {"prompt": 5}, name="two")

    assert desk.rows() == before
    assert [row["name"] for row in desk.rows(t.batch)] == ["b"]
    assert desk.pending() == 2


def test_every_bad_line_is_told_in_order_and_the_first_are_kept(desk: Desk) -> None:
    """However many there are, with bounded memory."""
    told: list[BadLine] = []
    lines: list[object] = [{"prompt": number} for number in range(1_200)]
    lines[3] = {"prompt": "x", "custom_id": "in-00006"}
    lines[5] = {"prompt": "y"}

    answer = desk.take(*lines, listener=Listener(report=told.append, pause=lambda _: None))

    assert [line.line for line in told] == [1, 2, 3, *range(5, 1_201)]
    assert answer.invalid == 1_199
    assert answer.errors == tuple(told[:100])


def test_bad_lines_can_be_left_out(desk: Desk) -> None:
    """The good ones are taken, the bad ones told and counted."""
    answer = desk.take(*prompts("a"), {"prompt": 5}, *prompts("b"), skip_invalid=True)

    assert (answer.new, answer.invalid, answer.accepted) == (2, 1, True)
    assert desk.claim() == ["a", "b"]


def test_whoever_reads_the_lines_may_stop_it_all(desk: Desk) -> None:
    """An error on the way, found after a thousand lines, leaves nothing."""

    def lines() -> Iterator[JobSpec | BadLine]:
        yield from desk.lines(*many(1_500))
        msg = "the endpoint does not know this model"
        raise UsageError(msg)

    with pytest.raises(UsageError, match="does not know"):
        enqueue(desk.database, "b", "/out", lines(), OPTIONS, listener=QUICK)

    assert desk.ids() == []
    assert desk.rows(t.intake) == []


def test_memory_does_not_grow_with_the_input(desk: Desk) -> None:
    """Three times the lines take the same memory."""

    def peak(lines: Iterable[JobSpec | BadLine], batch: str) -> int:
        tracemalloc.start()
        enqueue(desk.database, batch, f"/{batch}", lines, OPTIONS, listener=QUICK)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(desk.lines(*many(1_000)), "warm")
    few = peak(desk.lines(*many(6_000), name="few"), "few")
    lots = peak(desk.lines(*many(18_000), name="lots"), "lots")

    assert lots < 1.2 * few + 200_000
