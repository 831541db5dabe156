"""Reading inputs into jobs: a command's, file after file, or the mappings of a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tokenspool.errors import UsageError
from tokenspool.inputs import request
from tokenspool.inputs.document import Document, document, written
from tokenspool.inputs.lines import STDIN, check_path, lines, shown
from tokenspool.inputs.spec import MAX_PRIORITY, BadLine, InputDefaults, JobSpec
from tokenspool.names import check_custom_id, check_name, name_key, quoted, word_from

#: Names of unknown fields that are remembered, so that each is warned of once.
_WARNINGS = 50
#: `-` and the digits of a line number.
_NUMBER_BYTES = 12

#: What the jobs of a program are called by: `jobs:3` is the third of one call.
JOBS = "jobs"

_encode = msgspec.json.Encoder().encode
Warn = Callable[[str], None]


def read_inputs(
    paths: Sequence[str | Path], defaults: InputDefaults, *, warn: Warn
) -> Iterator[JobSpec | BadLine]:
    """Give the jobs of all inputs, in their order; `-` is standard input.

    Raises `UsageError` at once for an input that can not be one (missing, a folder, unreadable);
    whatever is wrong inside comes as a `BadLine`. `warn` gets one sentence per unknown field.
    """
    names = [str(path) for path in paths]
    for name in names:
        check_path(name)
    if names.count(STDIN) > 1:
        msg = "standard input (-) can be read only once"
        raise UsageError(msg)
    return _read(names, defaults, _Unknown(warn))


def read_documents(
    docs: Iterable[Mapping[str, object]], defaults: InputDefaults, *, warn: Warn
) -> Iterator[JobSpec | BadLine]:
    """Give the jobs of a program's own mappings, each checked as the line it would be.

    The first is line 1 of `jobs`. What is wrong with one comes as a `BadLine`.
    """
    file = _File(JOBS, defaults, _Unknown(warn))
    for number, doc in enumerate(docs, start=1):
        try:
            raw = written(doc)
        except UsageError as error:
            yield BadLine(file=JOBS, line=number, reason=str(error))
            continue
        if len(raw) > defaults.max_line_bytes:
            reason = f"it is longer than {defaults.max_line_bytes:,} bytes (max_line_bytes)"
            yield BadLine(file=JOBS, line=number, reason=reason)
        else:
            yield file.job(number, raw)


def stem_of(path: str | Path) -> str:
    """Give what a file lends to names: its stem, `stdin` for standard input."""
    return word_from("stdin" if str(path) == STDIN else Path(path).stem)


class _Unknown:
    """Warns of a field that means nothing here: once, however many lines have it."""

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._names: set[str] = set()

    def see(self, doc: Document, place: str) -> None:
        for name in doc.keys() - request.FIELDS:
            if name in self._names or len(self._names) >= _WARNINGS:
                continue
            self._names.add(name)
            self._warn(f"{place}: the field {quoted(name)} is not known; it is left out")


def _read(
    paths: Sequence[str], defaults: InputDefaults, unknown: _Unknown
) -> Iterator[JobSpec | BadLine]:
    for path in paths:
        file = _File(path, defaults, unknown)
        for number, raw in lines(path, max_bytes=defaults.max_line_bytes):
            yield raw if isinstance(raw, BadLine) else file.job(number, raw)


class _File:
    """Turns the lines of one file into jobs."""

    def __init__(self, path: str, defaults: InputDefaults, unknown: _Unknown) -> None:
        self._name = shown(path)
        self._is_text = Path(path).suffix.lower() == ".txt"
        self._stem = word_from("stdin" if path == STDIN else Path(path).stem, room=_NUMBER_BYTES)
        self._defaults = defaults
        self._unknown = unknown

    def job(self, line: int, raw: bytes) -> JobSpec | BadLine:
        try:
            doc = _prompt(raw) if self._is_text else document(raw)
            return self._job(line, doc)
        except UsageError as error:
            return BadLine(file=self._name, line=line, reason=str(error))

    def _job(self, line: int, doc: Document) -> JobSpec:
        defaults = self._defaults
        place = f"{self._name}:{line}"
        body = request.body_of(doc, model=defaults.model)
        if not doc.keys() <= request.FIELDS:
            self._unknown.see(doc, place)
        custom_id = request.text(doc, "custom_id")
        if custom_id is None:
            custom_id = f"{self._stem}-{line:05}"
        check_custom_id(custom_id)
        name = self._output(doc, custom_id, line)
        kept, content = request.encoded(body)
        tokens = request.positive(doc, "max_output_tokens")
        priority = request.whole(doc, "priority", low=-MAX_PRIORITY, high=MAX_PRIORITY)
        return JobSpec(
            file=self._name,
            line=line,
            custom_id=custom_id,
            api="chat",
            body=kept,
            content=content,
            name=name,
            name_key=name_key(name),
            model=str(body["model"]),
            priority=defaults.priority if priority is None else priority,
            max_output_tokens=defaults.max_output_tokens if tokens is None else tokens,
            extra=_encode({"metadata": request.mapping(doc, "metadata"), "line": place}),
        )

    def _output(self, doc: Document, custom_id: str, line: int) -> str:
        own = request.text(doc, "output")
        if own is None:
            batch = self._defaults.batch
            return self._defaults.name.name(custom_id=custom_id, batch=batch, line=line)
        check_name(own)
        return own


def _prompt(raw: bytes) -> Document:
    try:
        return {"prompt": raw.decode()}
    except UnicodeDecodeError as error:
        msg = f"it is not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        raise UsageError(msg) from error
