"""What a source is told about its endpoint and its limits."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Limits of one endpoint's connections and streams; the engine's watch adds the others."""

    #: Seconds to a connection: name, TCP and TLS together.
    connect_timeout_s: float = 10.0
    #: Receive buffer of one socket; what a paused stream may gather in the kernel.
    receive_bytes: int = 64 * 1024
    #: Bytes of one event, and of an answer that is no event stream.
    max_event_bytes: int = 8 * MIB
    #: Does `[DONE]` without a finish reason prove the end? (Ollama and some gateways.)
    done_is_finish: bool = False
    #: Seconds to wait for usage and `[DONE]` once a finish reason came; some servers never send it.
    drain_s: float = 3.0
    #: More malformed events than this in a row, or than this and a quarter of all, end a stream.
    max_malformed: int = 20
