"""Passages: the stretches of text that documents are made of, made once per seed and kept."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from simulator.mixing import Draws
from simulator.vocabulary import AWKWARD, EMOJI, SCRIPTS, Script, split_emoji

#: Tokens of a passage, the blank line at its end included.
TOKENS = 63
#: How many there are per seed. All of them together take about 12 MB, if ever so many are met.
COUNT = 4096
#: A word this long may be two tokens, so that streams are cut inside words too.
LONG_WORD = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Some sentences in one script."""

    tokens: tuple[bytes, ...]
    #: The tokens joined.
    data: bytes


@functools.lru_cache(maxsize=2 * COUNT)
def passage(seed: int, number: int) -> Passage:
    """Give passage `number` (below `COUNT`) of a seed."""
    draws = Draws(seed, number)
    script = draws.one_of(SCRIPTS)
    tokens: list[str] = []
    while len(tokens) < TOKENS - 1:
        tokens += _sentence(draws, script)
    encoded = (*(token.encode() for token in tokens[: TOKENS - 1]), b"\n\n")
    return Passage(tokens=encoded, data=b"".join(encoded))


def _sentence(draws: Draws, script: Script) -> list[str]:
    tokens: list[str] = []
    last = 3 + draws.below(11)
    for position in range(last + 1):
        tokens += _word(draws, script, first=position == 0)
        match draws.below(40):
            case 0 | 1 | 2 | 3 if position < last:
                tokens.append(script.comma)
            case 4:
                tokens += split_emoji(draws.one_of(EMOJI))
            case 5:
                tokens.append(draws.one_of(AWKWARD))
            case _:
                pass
    tokens.append(draws.one_of(script.stops))
    match draws.below(12):
        case 0:
            tokens.append("\n")
        case 1:
            tokens.append("  \n\n")
        case _:
            pass
    return tokens


def _word(draws: Draws, script: Script, *, first: bool) -> list[str]:
    word = draws.one_of(script.words)
    if first:
        word = word[0].upper() + word[1:]
    if len(word) > LONG_WORD and draws.below(3) == 0:
        at = 2 + draws.below(len(word) - 3)
        return [script.space + word[:at], word[at:]]
    return [script.space + word]
