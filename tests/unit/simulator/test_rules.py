"""Which request gets which fault."""

from __future__ import annotations

import pytest

from simulator.faults import NONE, Faults
from simulator.rules import MISHAPS, Chooser, Mix, Rule, When, parse_rule, parse_script
from tests.unit.simulator.conftest import Start

CUT = Faults(cut_after_tokens=3)


def chosen(rule: Rule, count: int, *, question: str = "q", resumes: bool = False) -> list[int]:
    """Give which of so many equal requests get the fault."""
    chooser = Chooser((rule,))
    given = (chooser.choose(question=question, resumes=resumes) for _ in range(count))
    return [number for number, faults in enumerate(given, 1) if faults != NONE]


@pytest.mark.parametrize(
    ("when", "numbers"),
    [
        (When(), [1, 2, 3, 4, 5, 6]),
        (When(request=2), [2]),
        (When(every=3), [3, 6]),
        (When(first=2), [1, 2]),
        (When(every=2, first=4), [2, 4]),
        (When(job="q"), [1, 2, 3, 4, 5, 6]),
        (When(job="other"), []),
        (When(resume=False), [1, 2, 3, 4, 5, 6]),
        (When(resume=True), []),
    ],
)
def test_a_rule_holds_for_the_requests_it_names(when: When, numbers: list[int]) -> None:
    """All conditions must hold."""
    assert chosen(Rule(when=when, fault=CUT), 6) == numbers


def test_a_rule_counts_only_the_requests_it_is_about() -> None:
    """The second request of one job is its second, however many others there were."""
    chooser = Chooser((Rule(when=When(job="storm", request=2), fault=CUT),))
    asked = ["calm", "a storm", "calm", "a storm", "a storm"]

    got = [chooser.choose(question=question, resumes=False) for question in asked]

    assert got == [NONE, NONE, NONE, CUT, NONE]


def test_a_later_rule_wins_over_an_earlier_one() -> None:
    """What the later one does not say, the earlier one does."""
    rules = (Rule(fault=Faults(status=500, crlf=True)), Rule(fault=Faults(status=429)))

    assert Chooser(rules).choose(question="", resumes=False) == Faults(status=429, crlf=True)


def test_a_rule_is_read_from_a_flag() -> None:
    """NAME=VALUE, more of them, and every how many requests."""
    assert parse_rule("cut_after_tokens=3@4") == Rule(when=When(every=4), fault=CUT)
    assert parse_rule("crlf,bom") == Rule(fault=Faults(crlf=True, bom=True))
    for wrong in ("crlf@0", "crlf@often", "nothing@2"):
        with pytest.raises(ValueError, match="fault"):
            parse_rule(wrong)


def test_rules_are_read_from_a_script() -> None:
    """A JSON list; a word that it does not know is refused, not passed over."""
    text = '[{"when": {"job": "x", "first": 2}, "fault": {"cut_after_tokens": 3}}]'

    assert parse_script(text) == (Rule(when=When(job="x", first=2), fault=CUT),)
    for wrong in ('[{"when": {"jobs": "x"}, "fault": {}}]', "{}", '[{"fault": {"crlff": true}}]'):
        with pytest.raises(ValueError, match="not a list of rules"):
            parse_script(wrong)


def test_a_mix_is_the_share_that_was_asked_for_and_the_same_each_time() -> None:
    """Of 2,000 streams a tenth, each kind among them, all inside the answer."""
    mix = Mix(rate=0.1, seed=1, kinds=MISHAPS)

    drawn = [mix.draw(number, tokens=50) for number in range(2000)]

    mishaps = [faults for faults in drawn if faults != NONE]
    assert 150 < len(mishaps) < 250
    for name in ("cut_after_tokens", "stall_after_tokens", "end_after_tokens"):
        places = [at for faults in mishaps if (at := getattr(faults, name)) is not None]
        assert len(places) > 30
        assert min(places) >= 0
        assert max(places) <= 50
        assert len(set(places)) > 15
    assert drawn == [mix.draw(number, tokens=50) for number in range(2000)]
    assert drawn != [Mix(rate=0.1, seed=2, kinds=MISHAPS).draw(n, tokens=50) for n in range(2000)]


def test_a_mix_has_only_the_kinds_that_were_asked_for() -> None:
    """So that a client without a watchdog need not meet a stall."""
    mix = Mix(rate=1.0, seed=1, kinds=("end",))

    assert all(mix.draw(n, tokens=9).end_after_tokens is not None for n in range(100))


async def test_faults_of_rules_happen(sim: Start) -> None:
    """Every second request, or the first of a job that goes on with an answer."""
    every = await sim(tokens=9, rules=(parse_rule("end_after_tokens=4@2"),))
    resumed = await sim(
        tokens=9, rules=(Rule(when=When(job="harbour", resume=True, first=1), fault=CUT),)
    )

    ends = [(await every.chat()).finish for _ in range(4)]
    fresh = await resumed.chat("the harbour")
    again = [await resumed.chat("the harbour", fresh.text[:9]) for _ in range(2)]

    assert ends == [["stop"], [], ["stop"], []]
    assert [got.ended for got in (fresh, *again)] == ["complete", "rst", "complete"]


async def test_a_mix_of_faults_happens(sim: Start) -> None:
    """With a rate of 1 no stream ends well, and the records say what was done to it."""
    client = await sim(tokens=9, fault_rate=1.0, fault_mix=("cut", "end"))

    answers = [await client.chat() for _ in range(10)]

    assert [got.finish for got in answers] == 10 * [[]]
    assert all(record["faults"] for record in await client.sim("requests"))


@pytest.mark.parametrize("text", ["@3", "", " , @2"])
def test_a_flag_without_a_fault_is_refused(text: str) -> None:
    """It would be accepted and do nothing."""
    with pytest.raises(ValueError, match="names no fault"):
        parse_rule(text)
