"""The faults an answer can be given: which there are, and how they are written.

On the command line, in the header and in `metadata.fault` a fault is `NAME` or `NAME=VALUE`, more
than one joined by commas; in a script it is a JSON object. What each does: docs/simulator.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from simulator.steps import Break


class Faults(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    repr_omit_defaults=True,
):
    """What goes wrong with one answer. Tokens and events are counted from this answer's first."""

    # Instead of an answer
    status: int = 0
    retry_after: str | float | None = None
    code: str | None = None
    no_answer: bool = False
    #: Names of request fields that are refused with 422, joined by `+`.
    refuse: str = ""
    json_answer: bool = False
    bare_detail: bool = False
    empty_body: bool = False

    # Late, or not to the end
    slow_start_s: float = 0.0
    cut_after_bytes: int | None = None
    cut_after_tokens: int | None = None
    cut: Break = "rst"
    stall_after_tokens: int | None = None
    #: None: for ever.
    stall_s: float | None = None
    #: Seconds between the comments of a stall; 0: none.
    stall_comments_s: float = 0.0
    end_after_tokens: int | None = None
    error_after_tokens: int | None = None
    #: The same with a string for an error.
    error_text_after_tokens: int | None = None

    # The end said otherwise
    finish: str | None = None
    no_finish: bool = False
    null_finish: bool = False
    duplicate_finish: bool = False
    no_done: bool = False
    no_done_end: bool = False
    done_spaces: bool = False
    after_done: bool = False
    unterminated: bool = False
    empty_length: bool = False

    # Other content
    prefix_ignored: bool = False
    preamble: str = ""
    reasoning: int = 0
    reasoning_field: Literal["reasoning_content", "reasoning", "both"] = "reasoning_content"
    refusal: int = 0
    tool_calls: int = 0
    nul_at: int | None = None

    # Events that are odd
    garbage_at: int | None = None
    garbage_events: int = 1
    null_choices_at: int | None = None
    no_delta_at: int | None = None
    nan_at: int | None = None
    invalid_utf8_at: int | None = None
    huge_event: int = 0
    empty_choices: bool = False
    null_content: bool = False
    usage_each: bool = False
    usage_zeros: bool = False
    ascii: bool = False
    split_surrogates: bool = False

    # The event stream's own form
    crlf: bool = False
    cr: bool = False
    bom: bool = False
    no_space: bool = False
    multiline: bool = False
    event_ids: bool = False
    #: A comment, or a ping, behind every so many events.
    comments: int = 0
    pings: int = 0
    bytes_per_write: int = 0
    split_utf8: bool = False


NONE = Faults()
#: The names there are.
NAMES = Faults.__struct_fields__


def parse_faults(text: str) -> Faults:
    """Read `NAME[=VALUE],…` or a JSON object. A name alone means 1, or yes. Raises ValueError."""
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=Faults)
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        values = {name.strip(): value.strip() if given else "1" for name, given, value in pairs}
        return msgspec.convert(values, Faults, strict=False)
    except msgspec.MsgspecError as error:
        raise ValueError(
            f"fault {text!r}: {error}; there are: {', '.join(sorted(NAMES))}"
        ) from error


def merge(first: Faults, second: Faults) -> Faults:
    """Give both faults; where they contradict each other, the second."""
    if second == NONE:
        return first
    # Only what differs from no fault is written, so only that replaces anything.
    return msgspec.structs.replace(first, **msgspec.to_builtins(second))
