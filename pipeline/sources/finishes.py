"""Why answers end, in the words that servers use for it, and what each of them means."""

from __future__ import annotations

from tokenspool.errors import ErrorKind

#: No end at all: set on every chunk by some servers.
_NOT_YET = frozenset({"", "null", "none", "unknown", "finish_reason_unspecified"})
_WORDS = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "sensitive": "content_filter",
}
#: Reasons that prove nothing: the answer was stopped, it did not end.
_FAULTS = {
    "error": ErrorKind.SERVER,
    "network_error": ErrorKind.SERVER,
    "abort": ErrorKind.INCOMPLETE,
    "aborted": ErrorKind.INCOMPLETE,
    "cancelled": ErrorKind.INCOMPLETE,
    "recomputed": ErrorKind.INCOMPLETE,
    "insufficient_system_resource": ErrorKind.OVERLOADED,
}


def read_finish(reason: str) -> str | ErrorKind | None:
    """Give a finish reason in OpenAI's words, the fault that it stands for, or None: none yet."""
    word = reason.strip().lower()
    if word in _NOT_YET:
        return None
    return _FAULTS.get(word) or _WORDS.get(word) or word[:100]
