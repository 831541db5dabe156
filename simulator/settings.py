"""Everything about a simulator that can be set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.rules import MISHAPS, Mishap, Rule
from simulator.text import Shape

#: What is made of a trailing assistant message: gone on with, taken for history, refused with 400,
#: or gone on with after saying it again.
Prefix = Literal["honour", "ignore", "refuse", "echo"]
#: What a request needs for its trailing assistant message to be a prefix.
PrefixFlag = Literal["any", "continue_final_message", "prefix", "partial", "none"]
#: White space at the end of a prefix: taken as it is, refused with 400, or trimmed and said again.
PrefixSpace = Literal["keep", "refuse", "trim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """What a simulator is like. Ports and names have defaults that are good for tests."""

    host: str = "127.0.0.1"
    #: 0: any that is free.
    port: int = 0
    #: Tokens per second and stream; 0: as fast as it is read.
    rate: float = 0.0
    #: Tokens of a whole answer.
    tokens: int = 400
    seed: int = 0
    shape: Shape = "prose"
    #: Does each answer choose other words?
    sampling: bool = False
    prefix: Prefix = "honour"
    prefix_flag: PrefixFlag = "any"
    prefix_space: PrefixSpace = "keep"
    #: Bytes that an answer to "go on" repeats first.
    overlap: int = 0
    #: Only this key is accepted; None: any, or none.
    api_key: str | None = None
    #: Only these models are there; empty: all but those whose names say that they are not.
    models: tuple[str, ...] = ()
    #: More answers at once are refused with 429; 0: no limit.
    max_live: int = 0
    #: More requests a minute are refused with 429, and the headers say so; 0: no limit.
    rpm: int = 0
    rules: tuple[Rule, ...] = ()
    #: The share of streams that a mishap happens to, and which mishaps.
    fault_rate: float = 0.0
    fault_mix: tuple[Mishap, ...] = MISHAPS
    #: How many requests `/sim/requests` remembers.
    keep: int = 1000
