"""Where outputs lie: no two in one file, on whatever disk."""

from __future__ import annotations

import pytest

from tests.contract.desk import Desk, many, prompts


@pytest.mark.parametrize(("one", "other"), [("A", "a"), ("é", "e\u0301"), ("straße", "STRASSE")])
@pytest.mark.parametrize("between", [0, 1_100])
def test_outputs_that_a_disk_may_mix_up_are_refused(
    desk: Desk, one: str, other: str, between: int
) -> None:
    """Equal but for case or Unicode form: one would overwrite the other on some disks."""
    answer = desk.take(*prompts(one), *many(between), *prompts(other))

    (bad,) = answer.errors
    assert (bad.line, answer.accepted) == (between + 2, False)
    assert repr(one) in bad.reason
    assert f"{desk.folder}/in.jsonl:1" in bad.reason


def test_outputs_of_two_batches_in_one_folder_are_kept_apart(desk: Desk) -> None:
    """The second batch is told whose file it would overwrite."""
    desk.take(*prompts("a"))

    same_root = desk.take(*prompts("a"), batch="c", name="two")
    other_root = desk.take(*prompts("a"), batch="c", root="/else", name="three")

    assert "the output 'a.md' belongs to job 'a'" in str(same_root.errors[0])
    assert other_root.accepted


def test_a_refused_twin_does_not_hide_a_third_line(desk: Desk) -> None:
    """With bad lines left out, the first line of a name gets it and all others are told."""
    lines = [*prompts("a"), *prompts("A"), *prompts("b", output="a.md")]

    answer = desk.take(*lines, skip_invalid=True)

    assert [bad.line for bad in answer.errors] == [2, 3]
    assert desk.ids() == ["a"]


@pytest.mark.parametrize(
    ("first", "second"), [("x", "x/y/z.md"), ("x/y/z.md", "X"), ("x/y", "x/y/z.md")]
)
@pytest.mark.parametrize("apart", [False, True])
def test_a_file_cannot_be_a_folder_as_well(
    desk: Desk, first: str, second: str, *, apart: bool
) -> None:
    """Whichever came first, in one input or in two, the newcomer is told and left out."""
    one, other = prompts("one", output=first), prompts("two", output=second)
    if apart:
        desk.take(*one)
        answer = desk.take(*other, *prompts("three"), name="two", skip_invalid=True)
        assert [bad.line for bad in answer.errors] == [1]
        assert desk.ids() == ["one", "three"]
    else:
        answer = desk.take(*one, *other, *prompts("three"), skip_invalid=True)
        assert len(answer.errors) == 1
        assert len(desk.ids()) == 2
    assert "cannot stand beside" in answer.errors[0].reason
    assert desk.pending() == 2


def test_a_file_that_many_folders_forbid_is_left_out_once(desk: Desk) -> None:
    """It is one bad line, however many jobs lie below its name."""
    below = [prompts(f"n{at}", output=f"x/{at}.md")[0] for at in range(3)]
    desk.take(*below)

    answer = desk.take(*prompts("x", output="x"), *prompts("y"), name="two", skip_invalid=True)

    assert (answer.new, answer.invalid) == (1, 1)
    assert desk.pending() == 4


def test_folders_may_be_shared(desk: Desk) -> None:
    """Files beside and below each other, also where a name begins like a folder."""
    names = ["x/a.md", "x/b.md", "x/y/a.md", "xy", "x.md", "x y/a.md"]
    lines = [prompts(f"n{at}", output=name)[0] for at, name in enumerate(names)]

    assert desk.take(*lines).new == 6
