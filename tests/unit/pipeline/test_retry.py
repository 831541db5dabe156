"""What follows a failed answer, for every kind of error there is."""

from __future__ import annotations

import pytest

from pipeline.retry import Again, RetryPolicy, Standing, decide
from tokenspool.errors import TRAITS, Cost, ErrorKind, StreamError
from tokenspool.model import GaveUp, GivenBack, Postponed

POLICY = RetryPolicy(max_stalls=5, base_s=1.0, cap_s=8.0)
STALLS = [kind for kind, trait in TRAITS.items() if trait.cost is Cost.STALL]


def standing(*, attempts: int = 0, stalls: int = 1, gained: bool = False) -> Standing:
    """Make how a job stands."""
    return Standing(attempts=attempts, max_attempts=3, stalls=stalls, gained=gained)


@pytest.mark.parametrize("kind", ErrorKind)
@pytest.mark.parametrize("gained", [False, True])
def test_every_kind_has_its_line_in_the_table(kind: ErrorKind, gained: bool) -> None:
    """Rejected requests end, interruptions cost nothing, growing text goes on at once."""
    expected: type[object] = {
        ErrorKind.CONNECT: GivenBack,
        ErrorKind.FIRST_BYTE_TIMEOUT: Again if gained else Postponed,
        ErrorKind.IDLE_TIMEOUT: Again if gained else Postponed,
        ErrorKind.TOTAL_TIMEOUT: Again if gained else Postponed,
        ErrorKind.NETWORK: Again if gained else Postponed,
        ErrorKind.RATE_LIMITED: GivenBack,
        ErrorKind.OVERLOADED: GivenBack,
        ErrorKind.SERVER: Postponed,
        ErrorKind.AUTH: GivenBack,
        ErrorKind.REQUEST: GaveUp,
        ErrorKind.CONTENT_FILTER: GaveUp,
        ErrorKind.INCOMPLETE: Again if gained else Postponed,
        ErrorKind.MALFORMED: Again if gained else Postponed,
        ErrorKind.TOO_LARGE: GaveUp,
        ErrorKind.INVALID_OUTPUT: GaveUp,
        ErrorKind.STORAGE: GaveUp,
        ErrorKind.OWNERSHIP_LOST: GivenBack,
        ErrorKind.CANCELLED: GaveUp,
    }[kind]

    following = decide(StreamError(kind, "no"), standing(gained=gained), POLICY)

    assert type(following) is expected
    if isinstance(following, GaveUp | Postponed):
        assert (following.failure.kind, following.failure.message) == (kind, "no")
        assert following.spends is (TRAITS[kind].cost is Cost.ATTEMPT)


@pytest.mark.parametrize("kind", STALLS)
def test_stalls_in_a_row_end_the_job_at_their_allowance(kind: ErrorKind) -> None:
    """Law 9: the fifth answer without a byte is the last."""
    fourth = decide(StreamError(kind, "no"), standing(stalls=4), POLICY)
    fifth = decide(StreamError(kind, "no"), standing(stalls=5), POLICY)

    assert isinstance(fourth, Postponed)
    assert isinstance(fifth, GaveUp)
    assert fifth.spends


@pytest.mark.parametrize("kind", STALLS)
def test_growing_text_pays_for_any_number_of_cuts(kind: ErrorKind) -> None:
    """A cut that gained bytes is free, however many there were before."""
    assert decide(StreamError(kind, "no"), standing(stalls=99, gained=True), POLICY) == Again()


@pytest.mark.parametrize(("attempts", "ends"), [(0, False), (1, False), (2, True), (9, True)])
def test_a_failure_of_the_job_spends_an_attempt(attempts: int, ends: bool) -> None:
    """The last of three attempts is the third."""
    following = decide(StreamError(ErrorKind.SERVER, "no"), standing(attempts=attempts), POLICY)

    assert isinstance(following, GaveUp if ends else Postponed)
    assert following.spends


@pytest.mark.parametrize("kind", [ErrorKind.NETWORK, ErrorKind.SERVER])
@pytest.mark.parametrize("gained", [False, True])
def test_retry_after_is_never_undercut(kind: ErrorKind, gained: bool) -> None:
    """Whoever is asked to wait waits at least so long, also with new text in hand."""
    error = StreamError(kind, "no", retry_after_s=100.0)

    following = decide(error, standing(gained=gained), POLICY)

    assert isinstance(following, Postponed)
    assert following.delay_s >= 100.0


def test_the_wait_doubles_to_its_cap_and_half_of_it_is_chance() -> None:
    """A thousand jobs that failed together do not come back together."""
    waits = [POLICY.backoff_s(tries, lambda: 1.0) for tries in range(1, 7)]

    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert POLICY.backoff_s(3, lambda: 0.0) == 2.0
    assert POLICY.backoff_s(10_000, lambda: 1.0) == 8.0
