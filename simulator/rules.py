"""Rules: which request gets which fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from simulator.faults import NONE, Faults, merge, parse_faults
from simulator.mixing import Draws

#: What a random mix may do to a stream.
Mishap = Literal["cut", "stall", "end"]
MISHAPS: tuple[Mishap, ...] = ("cut", "stall", "end")


class When(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, repr_omit_defaults=True
):
    """Which requests are meant: all that is said must hold.

    `request`, `every` and `first` count among the requests that `job` and `resume` let through.
    """

    #: The n-th one, from 1.
    request: int | None = None
    #: Every n-th one.
    every: int | None = None
    #: The first n.
    first: int | None = None
    #: The user message that the answer is for contains this.
    job: str = ""
    #: Only requests that go on with an answer (true), or only those that begin one (false).
    resume: bool | None = None

    def lets_through(self, *, question: str, resumes: bool) -> bool:
        """Tell whether the request is one that is counted."""
        return self.job in question and self.resume in {None, resumes}

    def holds(self, count: int) -> bool:
        """Tell whether the `count`-th request that was let through is meant."""
        return (
            self.request in {None, count}
            and (not self.every or count % self.every == 0)
            and (self.first is None or count <= self.first)
        )


class Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, repr_omit_defaults=True
):
    """A fault, and when it happens."""

    when: When = When()
    fault: Faults


def parse_rule(text: str) -> Rule:
    """Read `NAME[=VALUE][,NAME[=VALUE]…][@EVERY]`. Raises ValueError."""
    names, at, every = text.rpartition("@")
    if not (names if at else text).strip(" ,"):
        raise ValueError(f"fault {text!r} names no fault; for example cut_after_tokens=20@3")
    if not at:
        return Rule(fault=parse_faults(text))
    if not every.isdecimal() or int(every) == 0:
        raise ValueError(f"fault {text!r}: behind the @ stands a number: every n-th request")
    return Rule(when=When(every=int(every)), fault=parse_faults(names))


def parse_script(text: str | bytes) -> tuple[Rule, ...]:
    """Read a JSON list of rules. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=tuple[Rule, ...])
    except msgspec.MsgspecError as error:
        raise ValueError(f"the script of faults is not a list of rules: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Mishaps for a share of all streams, decided by seed and request number."""

    rate: float
    seed: int
    kinds: tuple[Mishap, ...]

    def draw(self, number: int, *, tokens: int) -> Faults:
        """Give what happens to request `number`, whose answer would have so many tokens."""
        draws = Draws(self.seed, number)
        if draws.share() >= self.rate:
            return NONE
        at = draws.below(tokens + 1)
        match draws.one_of(self.kinds):
            case "cut":
                return Faults(cut_after_tokens=at, cut=draws.one_of(("rst", "fin")))
            case "stall":
                return Faults(stall_after_tokens=at)
            case "end":
                return Faults(end_after_tokens=at)


class Chooser:
    """Counts requests and gives each what its rules say."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._counts = [0] * len(rules)

    def choose(self, *, question: str, resumes: bool) -> Faults:
        """Give the faults of the next request; later rules win."""
        faults = NONE
        for number, rule in enumerate(self._rules):
            if rule.when.lets_through(question=question, resumes=resumes):
                self._counts[number] += 1
                if rule.when.holds(self._counts[number]):
                    faults = merge(faults, rule.fault)
        return faults
