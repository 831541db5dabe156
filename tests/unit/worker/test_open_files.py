"""Open files: the soft limit is raised, never lowered, and bounds what waits for outputs."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import pytest

from tokenspool.errors import UsageError
from worker.wiring import allow_open_files


@dataclass
class Limits:
    """The limits of a process that is not ours."""

    soft: int
    hard: int
    #: More than this the system refuses, whatever the hard limit says.
    most: int = 1 << 30

    def get(self, _which: int) -> tuple[int, int]:
        """Give both."""
        return self.soft, self.hard

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        """Set both."""
        if limits[0] > self.most:
            msg = "current limit exceeds maximum limit"
            raise ValueError(msg)
        self.soft, self.hard = limits


def limited(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> Limits:
    """Put limits in the place of the process's own."""
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allowed is used: outputs that wait hold files, too."""
    limits = limited(monkeypatch, Limits(soft=256, hard=100_000))

    assert allow_open_files(64) == 2 * 64 + 200
    assert (limits.soft, limits.hard) == (100_000, 100_000)


def test_few_files_leave_little_room_for_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams, what is published and all else stay within the limit."""
    limited(monkeypatch, Limits(soft=256, hard=1024))

    publishing = allow_open_files(200)

    assert publishing == 148
    assert 3 * 200 + 2 * publishing + 128 <= 1024


def test_too_few_files_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least sixteen outputs must fit; what is advised is accepted."""
    limited(monkeypatch, Limits(soft=256, hard=759))
    with pytest.raises(UsageError, match=r"200 streams need 760 open files.*--streams to 199"):
        allow_open_files(200)

    assert allow_open_files(199) == 17


@pytest.mark.parametrize("soft", [5_000, resource.RLIM_INFINITY])
def test_a_large_soft_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    """Never lowered, also below an endless hard limit."""
    limits = limited(monkeypatch, Limits(soft=soft, hard=resource.RLIM_INFINITY))

    assert allow_open_files(64) == 2 * 64 + 200
    assert limits.soft == soft


def test_an_endless_limit_that_is_not_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some systems refuse what they call endless."""
    limits = limited(monkeypatch, Limits(soft=256, hard=resource.RLIM_INFINITY, most=800))

    assert allow_open_files(200) == 16
    assert limits.soft == 760
