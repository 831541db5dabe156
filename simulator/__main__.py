"""`python -m simulator`: run a simulator; its base URL is the first line of standard output."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from simulator.rules import MISHAPS, Rule, parse_rule, parse_script
from simulator.running import run
from simulator.settings import Prefix, PrefixFlag, PrefixSpace, SimSettings
from simulator.text import Shape

#: Exit code: the address cannot be had.
_UNUSABLE = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and serve; gives the exit code."""
    parser = _parser()
    told = parser.parse_args(arguments)
    try:
        settings = _settings(told)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        run(settings, _say, with_parent=told.with_parent)
    except OSError as error:
        sys.stderr.write(f"cannot listen on {settings.host}:{settings.port}: {error}\n")
        return _UNUSABLE
    return 0


def _say(base_url: str) -> None:
    sys.stdout.write(f"{base_url}\n")
    sys.stdout.flush()


def _settings(told: argparse.Namespace) -> SimSettings:
    if told.settings:
        return msgspec.json.decode(told.settings, type=SimSettings)
    rules: tuple[Rule, ...] = tuple(map(parse_rule, told.fault))
    for path in told.script:
        rules += parse_script(Path(path).read_bytes())
    values = {name: getattr(told, name) for name in SimSettings.__slots__ if hasattr(told, name)}
    values |= {"rules": rules, "models": tuple(told.models), "fault_mix": told.fault_mix.split(",")}
    return msgspec.convert(values, SimSettings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="An OpenAI-compatible endpoint with scripted faults.",
        allow_abbrev=False,
    )
    add, given = parser.add_argument, SimSettings()
    add("--host", default=given.host)
    add("--port", type=int, default=given.port, help="0 (the default): any free one")
    add("--rate", type=float, default=given.rate, help="tokens per second and stream; 0: burst")
    add("--tokens", type=int, default=given.tokens, help="tokens of a whole answer")
    add("--seed", type=int, default=given.seed)
    add("--shape", choices=get_args(Shape), default=given.shape)
    add("--sampling", action="store_true", help="other words each time, tokens with indexes")
    add("--prefix", choices=get_args(Prefix), default=given.prefix)
    add("--prefix-flag", choices=get_args(PrefixFlag), default=given.prefix_flag)
    add("--prefix-space", choices=get_args(PrefixSpace), default=given.prefix_space)
    add("--overlap", type=int, default=given.overlap, help="bytes repeated when asked to go on")
    add("--api-key", default=given.api_key, help="the only key that is accepted")
    add("--model", dest="models", action="append", default=[], help="the only models; repeatable")
    add("--max-live", type=int, default=given.max_live, help="more answers at once get 429")
    add("--rpm", type=int, default=given.rpm, help="more requests a minute get 429")
    add("--fault", action="append", default=[], metavar="NAME[=VALUE],…[@EVERY]")
    add("--script", action="append", default=[], metavar="FILE", help="JSON list of rules")
    add("--fault-rate", type=float, default=given.fault_rate, help="share of streams with mishaps")
    add("--fault-mix", default=",".join(MISHAPS), help="which mishaps: cut,stall,end")
    add("--settings", help=argparse.SUPPRESS)
    add("--with-parent", action="store_true", help="end when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
