"""Check a Dockerfile without Docker: what it is made from is named, and nobody in it is root.

A linter knows far more rules; these are the ones whose breach would be a defect of ours. A secret
in a layer stays there, whatever a later layer deletes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: What a stage may begin with besides an image: an earlier stage.
_FROM = re.compile(r"(?P<image>\S+)(?:\s+[Aa][Ss]\s+(?P<stage>\S+))?")
_SECRET = re.compile(
    r"PASSWORD|SECRET|TOKEN(?!SPOOL)|CREDENTIAL|_KEY\b|://[^\s/@]+:[^\s/@]+@", re.IGNORECASE
)
#: A file like that belongs to a person or a machine, never to an image.
_PRIVATE = re.compile(r"(^|[\s/])(\.env|\.netrc|id_rsa|[^\s]+\.pem)(\s|$)")
KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "HEALTHCHECK", "LABEL", "RUN",
    "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its line, its name, and what follows it on however many lines."""

    line: int
    name: str
    words: str


def instructions(text: str) -> Iterator[Instruction]:
    """Give the instructions of a Dockerfile; comments and line ends are gone."""
    gathered, begun = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("#") or not (line or gathered):
            continue
        begun = begun or number
        gathered += line.removesuffix("\\") + " "
        if not line.endswith("\\"):
            name, _, words = gathered.strip().partition(" ")
            yield Instruction(begun, name, words.strip())
            gathered, begun = "", 0


def problems(text: str) -> list[str]:
    """Give what is wrong with a Dockerfile, one sentence each; empty means fine."""
    found = list(instructions(text))
    last = max((number for number, one in enumerate(found) if one.name == "FROM"), default=None)
    if last is None:
        return ["it has no FROM"]
    said = [f"line {one.line}: {what}" for one in found for what in _of_one(one)]
    return [*said, *_of_images(found), *_of_final(found[last:])]


def _of_one(one: Instruction) -> Iterator[str]:
    """Give what is wrong with an instruction, wherever it stands."""
    if one.name == "ADD":
        yield "ADD fetches and unpacks what nobody has checked: COPY it"
    elif one.name not in KNOWN:
        yield f"unknown instruction {one.name}"
    if one.name in {"ENV", "ARG", "LABEL"} and _SECRET.search(one.words):
        yield f"{one.name} holds a secret, which every user of the image can read"
    if one.name == "COPY" and _PRIVATE.search(one.words):
        yield "COPY takes along a file with secrets"
    if one.name == "RUN" and re.search(r"\b(curl|wget)\b|--trusted-host|\bsudo\b", one.words):
        yield "RUN fetches what nobody has checked, or asks for more rights than it has"
    if one.name == "RUN" and "pip" in one.words and "install" in one.words:
        checked = "--require-hashes" in one.words or "--no-index" in one.words
        if not checked:
            yield "pip installs without hashes: --require-hashes -r a lock"
    if one.name in {"CMD", "ENTRYPOINT"} and not _is_exec(one.words):
        yield f'{one.name} runs in a shell, which swallows signals: use the form ["a", "b"]'


def _of_images(found: list[Instruction]) -> Iterator[str]:
    """Give the images whose version is not named."""
    stages: set[str] = set()
    for one in found:
        match = _FROM.fullmatch(one.words) if one.name == "FROM" else None
        if match is None:
            continue
        image = match["image"]
        _, colon, tag = image.rpartition("/")[2].partition(":")
        if image not in stages and (
            not colon or tag.startswith("latest") or not re.search(r"\d", tag)
        ):
            yield f"line {one.line}: the version of {image} is not named"
        stages.add(match["stage"] or "")


def _of_final(stage: list[Instruction]) -> Iterator[str]:
    """Give what the last stage, which is the image, lacks."""
    by_name = {one.name: one for one in stage}
    user = by_name["USER"].words if "USER" in by_name else "root"
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user):
        yield f"the image runs as {user}: end with USER and a number that is not 0"
    if "CMD" not in by_name and "ENTRYPOINT" not in by_name:
        yield "the image starts nothing: CMD or ENTRYPOINT is missing"
    if by_name.get("STOPSIGNAL", Instruction(0, "", "")).words != "SIGTERM":
        yield "STOPSIGNAL SIGTERM is missing: a worker drains on it"
    health = by_name["HEALTHCHECK"].words if "HEALTHCHECK" in by_name else ""
    if not _is_exec(health.partition("CMD ")[2]):
        yield 'there is no HEALTHCHECK that runs a command: HEALTHCHECK CMD ["a", "b"]'


def _is_exec(words: str) -> bool:
    """Tell whether a command is a list of words, so that no shell stands between it and signals."""
    try:
        command = json.loads(words)
    except ValueError:
        return False
    return isinstance(command, list) and bool(command) and all(isinstance(w, str) for w in command)


def main() -> int:
    """Print the problems of every file that is named; exit 1 when there are any."""
    bad = 0
    for path in sys.argv[1:]:
        for problem in problems(Path(path).read_text(encoding="utf-8")):
            print(f"{path}: {problem}", file=sys.stderr)
            bad += 1
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
