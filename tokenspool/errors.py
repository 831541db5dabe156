"""What can go wrong, and what each kind of error means for the job, the endpoint and the person.

One enum, one table. Whoever catches a failure asks the table; nobody decides by reading a message.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ErrorKind(enum.StrEnum):
    """The taxonomy: every failed or interrupted attempt carries exactly one of these."""

    CONNECT = "connect"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    NETWORK = "network"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER = "server"
    AUTH = "auth"
    REQUEST = "request"
    CONTENT_FILTER = "content_filter"
    INCOMPLETE = "incomplete"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    INVALID_OUTPUT = "invalid_output"
    STORAGE = "storage"
    OWNERSHIP_LOST = "ownership_lost"
    CANCELLED = "cancelled"


class Fault(enum.StrEnum):
    """Whose doing an error is."""

    JOB = "job"
    ENDPOINT = "endpoint"
    WORKER = "worker"
    PERSON = "person"


class Cost(enum.StrEnum):
    """What an error costs the job's allowances."""

    NOTHING = "nothing"
    """The attempt is given back: an interruption the job could not help."""
    STALL = "stall"
    """Free while the text grows; an answer that gained no byte counts towards `max_stalls`."""
    ATTEMPT = "attempt"
    """One of the job's attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """How one kind of error is treated."""

    #: May the same job be tried again by itself?
    retry: bool
    fault: Fault
    cost: Cost
    #: What the person should do, one sentence.
    action: str


_AGAIN = "nothing to do: it is resumed by itself"

TRAITS: dict[ErrorKind, Trait] = {
    ErrorKind.CONNECT: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.NOTHING,
        action="check the base URL and that the server is up; jobs wait meanwhile",
    ),
    ErrorKind.FIRST_BYTE_TIMEOUT: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.STALL,
        action="the server took the request but sent nothing: raise first_byte_timeout_s"
        " or lower --streams",
    ),
    ErrorKind.IDLE_TIMEOUT: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.STALL,
        action="the server fell silent in the middle: raise idle_timeout_s if it pauses that long;"
        " then: tokenspool resume --error idle_timeout",
    ),
    ErrorKind.TOTAL_TIMEOUT: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.STALL,
        action="raise total_timeout_s if answers really take that long",
    ),
    ErrorKind.NETWORK: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.STALL,
        action="the connection broke with no new text: look at the network and the server;"
        " then: tokenspool resume --error network",
    ),
    ErrorKind.RATE_LIMITED: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.NOTHING,
        action="lower --streams or raise the account's limit; jobs wait meanwhile",
    ),
    ErrorKind.OVERLOADED: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.NOTHING,
        action="the server says it is busy; jobs wait meanwhile",
    ),
    ErrorKind.SERVER: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.ATTEMPT,
        action="look at the server's own log; then: tokenspool resume --error server",
    ),
    ErrorKind.AUTH: Trait(
        retry=True,
        fault=Fault.PERSON,
        cost=Cost.NOTHING,
        action="set the key in the variable that the endpoint names (OPENAI_API_KEY by default)",
    ),
    ErrorKind.REQUEST: Trait(
        retry=False,
        fault=Fault.JOB,
        cost=Cost.ATTEMPT,
        action="the endpoint refuses this request as it stands: correct the input line"
        " and enqueue it under a new custom_id",
    ),
    ErrorKind.CONTENT_FILTER: Trait(
        retry=False,
        fault=Fault.JOB,
        cost=Cost.ATTEMPT,
        action="the provider's filter stopped the answer; change the prompt",
    ),
    ErrorKind.INCOMPLETE: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.STALL,
        action="the answer has no proven end; tokenspool resume goes on from the saved text",
    ),
    ErrorKind.MALFORMED: Trait(
        retry=True,
        fault=Fault.ENDPOINT,
        cost=Cost.STALL,
        action="the server sends no event stream; tokenspool doctor shows what it sends",
    ),
    ErrorKind.TOO_LARGE: Trait(
        retry=False,
        fault=Fault.ENDPOINT,
        cost=Cost.ATTEMPT,
        action="one event or answer is over the limit; raise max_event_bytes or max_output_bytes",
    ),
    ErrorKind.INVALID_OUTPUT: Trait(
        retry=False,
        fault=Fault.JOB,
        cost=Cost.ATTEMPT,
        action="the text is kept; correct the schema or the prompt and resume with --restart",
    ),
    ErrorKind.STORAGE: Trait(
        retry=False,
        fault=Fault.WORKER,
        cost=Cost.ATTEMPT,
        action="look at the disk and the database; then: tokenspool resume --error storage",
    ),
    ErrorKind.OWNERSHIP_LOST: Trait(
        retry=True, fault=Fault.WORKER, cost=Cost.NOTHING, action=_AGAIN
    ),
    ErrorKind.CANCELLED: Trait(
        retry=False,
        fault=Fault.PERSON,
        cost=Cost.NOTHING,
        action="tokenspool resume --job takes it up again",
    ),
}


class TokenspoolError(Exception):
    """Root of what tokenspool raises; the message is one sentence for a person."""

    #: What a command that ends with this error exits with.
    exit_code = 1


class UsageError(TokenspoolError):
    """Wrong usage, bad input or an unknown name: nothing was changed."""

    exit_code = 2


class Unavailable(TokenspoolError):  # noqa: N818 - it reads as what it says
    """A part that is needed (database, endpoint, key) cannot be reached or used."""

    exit_code = 4


class StreamError(TokenspoolError):
    """An attempt's stream ended without a proven finish; what came before stays valid."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Keep what the endpoint said; `retry_after_s` counts from now."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.code = code
        self.request_id = request_id
