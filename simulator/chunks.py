"""The JSON of chat completions: chunks of a stream, and whole answers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import msgspec

_encode = msgspec.json.encode
#: What a tool call calls itself.
_TOOL = {"name": "write"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer has cost."""

    prompt: int
    completion: int

    def json(self) -> bytes:
        """Write it as OpenAI does."""
        return (
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}'
            % (self.prompt, self.completion, self.prompt + self.completion)
        )  # fmt: skip


class ChunkWriter:
    """Writes the chunks of one stream; what they have in common is written once."""

    def __init__(
        self, *, number: int, model: str, usage_null: bool, ascii_only: bool = False
    ) -> None:
        self.id = f"chatcmpl-{number:012d}"
        self._encode_text = _encode_ascii if ascii_only else _encode
        self._head = b'{"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b' % (
            self.id.encode(),
            time.time(),
            self._encode_text(model),
        )
        self._open = self._head + b',"choices":[{"index":0,"delta":{'
        self._close = b'},"logprobs":null,"finish_reason":null}]'
        self._end = b',"usage":null}' if usage_null else b"}"

    def delta(self, inside: bytes, *, finish: str | None = None, usage: bytes = b"") -> bytes:
        """Write a chunk with these members of its delta."""
        reason = b"null" if finish is None else _encode(finish)
        end = b',"usage":%b}' % usage if usage else self._end
        return b'%b%b},"logprobs":null,"finish_reason":%b}]%b' % (self._open, inside, reason, end)

    def choices(self, choices: bytes, *, extra: bytes = b"") -> bytes:
        """Write a chunk with these choices, whatever they are."""
        return b'%b,"choices":%b%b%b' % (self._head, choices, extra, self._end)

    def usage(self, usage: Usage) -> bytes:
        """Write the chunk that says what was used."""
        return b'%b,"choices":[],"usage":%b}' % (self._head, usage.json())

    def around(self, field: str) -> tuple[bytes, bytes]:
        """Give what stands before and behind the text of a token's chunk."""
        return b'%b"%b":' % (self._open, field.encode()), self._close + self._end

    def text(self, piece: bytes) -> bytes:
        """Write a token's text as JSON."""
        return self._encode_text(piece.decode())

    def tool_start(self) -> bytes:
        """Write the chunk that opens a tool call."""
        call = {"index": 0, "id": f"call_{self.id[9:]}", "type": "function"}
        call["function"] = {**_TOOL, "arguments": ""}
        return self.delta(b'"content":null,"tool_calls":' + _encode([call]))

    def tool_arguments(self, piece: str) -> bytes:
        """Write a chunk that goes on with a tool call's arguments."""
        call = {"index": 0, "function": {"arguments": piece}}
        return self.delta(b'"tool_calls":' + _encode([call]))


def whole_answer(
    *, number: int, model: str, message: dict[str, object], finish: str | None, usage: Usage
) -> bytes:
    """Write an answer that is not streamed."""
    return _encode(
        {
            "id": f"chatcmpl-{number:012d}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", **message},
                    "logprobs": None,
                    "finish_reason": finish,
                }
            ],
            "usage": msgspec.Raw(usage.json()),
        }
    )


def tool_call(arguments: str, *, number: int) -> dict[str, object]:
    """Give a whole tool call."""
    function = {**_TOOL, "arguments": arguments}
    return {"id": f"call_{number:012d}", "type": "function", "function": function}


def _encode_ascii(text: str) -> bytes:
    return json.dumps(text).encode()
