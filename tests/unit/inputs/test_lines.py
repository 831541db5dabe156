"""Lines of files, pipes and standard input, whatever is in them."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from tokenspool.errors import UsageError
from tokenspool.inputs.lines import check_path, lines
from tokenspool.inputs.spec import BadLine

Found = list[tuple[int, bytes | str]]


def read(path: Path | str, *, max_bytes: int = 100) -> Found:
    """Read all lines; of a bad one its sentence."""
    return [
        (number, str(line) if isinstance(line, BadLine) else line)
        for number, line in lines(str(path), max_bytes=max_bytes)
    ]


def written(folder: Path, data: bytes) -> Path:
    """Write an input."""
    path = folder / "in.jsonl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [b"a\nb\n", b"a\nb", b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb", b"\xef\xbb\xbfa\r\nb\r\n\r\n"],
)
def test_line_ends_and_a_byte_order_mark_are_no_part_of_a_line(tmp_path: Path, data: bytes) -> None:
    """LF, CRLF, no end at all and a mark at the start give the same lines."""
    assert read(written(tmp_path, data)) == [(1, b"a"), (2, b"b")]


def test_empty_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    """A line's number is the one that an editor shows."""
    assert read(written(tmp_path, b"\n\na\n  \t\nb")) == [(3, b"a"), (5, b"b")]


def test_line_separators_of_unicode_end_no_line(tmp_path: Path) -> None:
    """U+2028, U+0085 and a lone CR inside a prompt stay inside."""
    line = "x\u2028y\x85z\rw".encode()

    assert read(written(tmp_path, line + b"\n")) == [(1, line)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_of_just_the_limit_is_taken(tmp_path: Path, end: bytes) -> None:
    """The limit counts the line without its end."""
    line = b"x" * 100

    assert read(written(tmp_path, line + end)) == [(1, line)]


@pytest.mark.parametrize("size", [101, 102, 103, 5000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_over_the_limit_is_one_complaint(tmp_path: Path, size: int, end: bytes) -> None:
    """The lines after it are read as if nothing had been."""
    path = written(tmp_path, b"a\n" + b"x" * size + end + b"b\n")

    first, long, last = read(path)

    assert (first, last) == ((1, b"a"), (3, b"b"))
    assert long == (2, f"{path}:2: the line is longer than 100 bytes (max_line_bytes)")


def test_a_line_over_the_limit_that_is_all_carriage_returns_is_still_one_line(
    tmp_path: Path,
) -> None:
    """Stripping a line's end must not make a long line look short."""
    found = read(written(tmp_path, b"\r" * 5000 + b"\nb\n"))

    assert [number for number, _ in found] == [1, 2]


def test_a_line_of_100_mb_is_never_in_memory(tmp_path: Path) -> None:
    """Reporting a line that is too long takes memory for the limit, not for the line."""
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.truncate(100_000_000)
        file.seek(0)
        file.write(b'{"prompt"')
        file.seek(0, os.SEEK_END)
        file.write(b"\n{}\n")

    tracemalloc.start()
    found = read(path, max_bytes=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [number for number, _ in found] == [1, 2]
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "nothing in it"),
        (b"\n\r\n  \n", "nothing in it"),
        ("a".encode("utf-16"), "UTF-16"),
        ("{}".encode("utf-16-le"), "UTF-16"),
        ("{}".encode("utf-16-be"), "UTF-16"),
        (b"\x7fELF\x02\x01\x01\x00rest\nabc\n", "binary, not lines of text"),
        (b"\x01\x00\x00\x00\nabc\n", "binary, not lines of text"),
        (b"\x1f\x8b\x08\x00abc\nabc\n", "gzip"),
        (b"PK\x03\x04abc\nabc\n", "zip"),
        (b"\x28\xb5\x2f\xfdabc\n", "zstd"),
    ],
)
def test_a_file_that_is_no_text_is_one_complaint(tmp_path: Path, data: bytes, why: str) -> None:
    """One sentence about the file, not one about each of its lines."""
    path = written(tmp_path, data)

    ((number, reason),) = read(path)

    assert number == 0
    assert str(reason).startswith(f"{path}: ")
    assert why in str(reason)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing.jsonl", "no such file"),
        ("folder", "folder"),
        ("table.csv", "follow later"),
        ("table.PARQUET", "follow later"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("plain/below.jsonl", "cannot be read"),
    ],
)
def test_what_can_be_no_input_is_known_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    """Before a line of any input is read, in one sentence that names it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").touch()

    with pytest.raises(UsageError, match=why):
        check_path(name)


def test_a_pipe_is_an_input(tmp_path: Path) -> None:
    """A FIFO, as `<(command)` makes one, is opened once and read to its end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"a\nb\n",))

    check_path(str(pipe))
    writer.start()
    found = read(pipe)
    writer.join()

    assert found == [(1, b"a"), (2, b"b")]


def test_standard_input_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads what is piped in, and leaves standard input open."""
    with written(tmp_path, b"a\n").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        check_path("-")

        assert read("-") == [(1, b"a")]
        assert not stdin.closed


def test_a_closed_standard_input_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service without standard input gets a sentence, not an attribute error."""
    monkeypatch.setattr("sys.stdin", None)

    with pytest.raises(UsageError, match="standard input is closed"):
        check_path("-")


def test_a_file_that_stops_being_readable_is_a_complaint(tmp_path: Path) -> None:
    """A file that vanishes after it was checked ends with a sentence that names it."""
    ((number, reason),) = read(tmp_path / "gone.jsonl")

    assert number == 0
    assert "No such file" in str(reason)
