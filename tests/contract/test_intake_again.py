"""The same lines again, other ones under the same name, and dry runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.desk import Desk, many, prompts
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.store.intake import Enqueued


def test_the_same_input_again_changes_nothing(desk: Desk) -> None:
    """Not a row, in any table, whatever became of the jobs meanwhile."""
    desk.take(*many(1_200))
    desk.claim()
    before = [desk.rows(table) for table in t.metadata.sorted_tables]

    answer = desk.take(*many(1_200))

    assert answer == Enqueued(same=1_200, accepted=True)
    assert [desk.rows(table) for table in t.metadata.sorted_tables] == before


def test_more_lines_may_be_added(desk: Desk) -> None:
    """Known ones are known, new ones are new, in one input or in several."""
    desk.take(*prompts("a", "b"))

    answer = desk.take(*prompts("a", "c", "b"), name="two")

    assert (answer.new, answer.same) == (1, 2)
    assert desk.ids() == ["a", "b", "c"]


def test_the_same_line_twice_in_one_input_is_one_job(desk: Desk) -> None:
    """Next to each other, or a transaction apart."""
    answer = desk.take(*prompts("a", "a"), *many(1_100), *prompts("a"), *many(3))

    assert (answer.new, answer.same, answer.invalid) == (1_101, 5, 0)


@pytest.mark.parametrize("between", [0, 1_100])
def test_of_equal_lines_with_other_options_the_first_one_counts(desk: Desk, between: int) -> None:
    """Within one input, however far apart; a later input would renew the job."""
    answer = desk.take(*prompts("a"), *many(between), *prompts("a", priority=3))

    assert (answer.same, answer.updated) == (1, 0)
    assert desk.rows()[0]["priority"] == 0


@pytest.mark.parametrize("between", [0, 1_100])
def test_other_content_under_a_known_custom_id_is_an_error(desk: Desk, between: int) -> None:
    """It names both lines, what differs and what to do, in one input."""
    other = {"custom_id": "a", "prompt": "else", "params": {"seed": 1}}

    answer = desk.take(*prompts("a"), *many(between), other)

    (bad,) = answer.errors
    assert not answer.accepted
    assert str(bad).startswith(f"{desk.folder}/in.jsonl:{between + 2}: custom_id 'a' is already")
    assert f"the job of {desk.folder}/in.jsonl:1," in str(bad)
    assert "(other messages, seed)" in str(bad)
    assert "give this line a custom_id of its own" in str(bad)


def test_other_content_in_a_later_enqueue_is_the_same_error(desk: Desk) -> None:
    """The job stays what it was."""
    desk.take(*prompts("a"))
    before = desk.rows()

    answer = desk.take({"custom_id": "a", "prompt": "else"}, name="two")

    assert "the job of" in str(answer.errors[0])
    assert f"{desk.folder}/in.jsonl:1" in str(answer.errors[0])
    assert desk.rows() == before


def test_two_files_of_one_stem_do_not_mix_silently(desk: Desk) -> None:
    """Lines without custom_id are named after the stem: same names, other content, both named."""
    (desk.folder / "x").mkdir()
    (desk.folder / "y").mkdir()
    desk.take({"prompt": "one"}, name="x/prompts")

    answer = desk.take({"prompt": "two"}, name="y/prompts")

    assert f"{desk.folder}/y/prompts.jsonl:1" in str(answer.errors[0])
    assert f"{desk.folder}/x/prompts.jsonl:1" in str(answer.errors[0])


def test_the_same_custom_id_in_another_batch_is_another_job(desk: Desk) -> None:
    """Batches keep their names apart, as long as their outputs lie apart."""
    desk.take(*prompts("a"))

    answer = desk.take({"custom_id": "a", "prompt": "else"}, name="two", batch="c", root="/other")

    assert (answer.new, answer.accepted) == (1, True)


def test_a_dry_run_says_what_would_come_of_it_and_changes_nothing(desk: Desk) -> None:
    """New, known, renewed and bad lines are told apart as they would be."""
    desk.take(*prompts("a", "b"))
    before = [desk.rows(table) for table in t.metadata.sorted_tables]
    lines = [
        *prompts("a"),
        *prompts("b", priority=3),
        *prompts("c", "d"),
        {"custom_id": "a", "prompt": "else"},
        {"custom_id": "c", "prompt": "else"},
        *prompts("D"),
    ]

    answer = desk.take(*lines, dry_run=True)

    assert (answer.new, answer.same, answer.updated, answer.invalid) == (2, 1, 1, 3)
    assert [bad.line for bad in answer.errors] == [5, 6, 7]
    assert not answer.accepted
    assert [desk.rows(table) for table in t.metadata.sorted_tables] == before


def test_a_dry_run_needs_no_database(tmp_path: Path) -> None:
    """None is there and none is made."""
    other = prompts("job-00001", system="Another one.")

    with closing(Database(f"sqlite:///{tmp_path}/none.db")) as database:
        answer = Desk(database, tmp_path).take(*many(1_100), *other, dry_run=True)

    assert (answer.new, answer.invalid, answer.accepted) == (1_100, 1, False)
    assert not (tmp_path / "none.db").exists()
