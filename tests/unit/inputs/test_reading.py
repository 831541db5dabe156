"""From lines to jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenspool.errors import UsageError
from tokenspool.inputs import BadLine, InputDefaults, JobSpec, read_inputs
from tokenspool.names import NameTemplate

DEFAULTS = InputDefaults(batch="book", model="m")
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


def read(
    folder: Path, *lines: object, defaults: InputDefaults = DEFAULTS, name: str = "in.jsonl"
) -> list[JobSpec | BadLine]:
    """Write lines (objects as JSON, bytes as they are) and read them; a warning is an error."""
    path = folder / name
    path.write_bytes(
        b"".join(
            (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
            for line in lines
        )
    )
    return list(read_inputs([path], defaults, warn=pytest.fail))


def job(folder: Path, line: object, *, defaults: InputDefaults = DEFAULTS) -> JobSpec:
    """Read one line that is a job."""
    (found,) = read(folder, line, defaults=defaults)
    assert isinstance(found, JobSpec), found
    return found


def reason(folder: Path, line: object, *, defaults: InputDefaults = DEFAULTS) -> str:
    """Read one line that is none."""
    (found,) = read(folder, line, defaults=defaults)
    assert isinstance(found, BadLine), found
    assert str(found) == f"{folder}/in.jsonl:1: {found.reason}"
    return found.reason


def body(folder: Path, line: object) -> object:
    """Give the request that a line comes to."""
    return json.loads(job(folder, line).body)


# --- what is taken --------------------------------------------------------------------------------
def test_a_prompt_becomes_a_job_with_all_its_defaults(tmp_path: Path) -> None:
    """A line with nothing but a prompt is named after its file and line."""
    found = job(tmp_path, {"prompt": "Write."})

    assert found == JobSpec(
        file=f"{tmp_path}/in.jsonl",
        line=1,
        custom_id="in-00001",
        api="chat",
        body=b'{"model":"m","messages":[{"role":"user","content":"Write."}]}',
        content=found.content,
        name="in-00001.md",
        name_key="in-00001.md",
        model="m",
        priority=0,
        max_output_tokens=None,
        extra=json.dumps(
            {"metadata": None, "line": f"{tmp_path}/in.jsonl:1"}, separators=(",", ":")
        ).encode(),
    )


def test_every_field_of_the_short_form_lands_in_its_place(tmp_path: Path) -> None:
    """Fields of the job stay with the job, fields of the request go into the request."""
    line = {
        "custom_id": "Ch-2",
        "system": "Be brief.",
        "messages": USER,
        "model": "own",
        "max_output_tokens": 8000,
        "priority": -3,
        "output": "part/Two.txt",
        "metadata": {"chapter": 2},
        "params": {"temperature": 0.7, "seed": 1},
    }

    found = job(tmp_path, line)

    assert json.loads(found.body) == {
        "model": "own",
        "messages": [{"role": "system", "content": "Be brief."}, *USER],
        "temperature": 0.7,
        "seed": 1,
    }
    assert (found.custom_id, found.model, found.priority) == ("Ch-2", "own", -3)
    assert (found.name, found.name_key) == ("part/Two.txt", "part/two.txt")
    assert found.max_output_tokens == 8000
    assert json.loads(found.extra)["metadata"] == {"chapter": 2}


def test_a_line_of_a_batch_file_works_as_it_is(tmp_path: Path) -> None:
    """The Batch form keeps its body, whatever the endpoint may know that we do not."""
    given = {"model": "own", "messages": USER, "top_k": 5, "tools": [{"type": "function"}]}
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": given}

    assert body(tmp_path, line) == given


def test_a_body_keeps_the_order_of_its_fields(tmp_path: Path) -> None:
    """Structured output is written in the order of its schema, so its order counts."""
    schema: object = {"properties": {"z": {}, "a": {}, "m": {}}}
    line = {"url": CHAT, "body": {"messages": USER, "response_format": schema, "model": "m"}}

    kept = job(tmp_path, line).body

    assert kept.index(b'"z"') < kept.index(b'"a"') < kept.index(b'"m":{}')


def test_streaming_is_ours_to_say(tmp_path: Path) -> None:
    """`stream` and its options are left out, whatever they were."""
    line = {"prompt": "x", "params": {"stream": False, "stream_options": {"a": 1}, "seed": 1}}

    assert body(tmp_path, line) == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "seed": 1,
    }


def test_a_line_without_its_own_values_gets_the_defaults(tmp_path: Path) -> None:
    """Model, budget, priority and name come from the command; the line's own win."""
    defaults = InputDefaults(
        batch="book",
        model="big",
        max_output_tokens=10,
        priority=2,
        name=NameTemplate(text="{batch}/{line}-{custom_id}.txt"),
    )

    plain = job(tmp_path, {"prompt": "x"}, defaults=defaults)
    own = job(tmp_path, {"prompt": "x", "max_output_tokens": 5, "priority": 0}, defaults=defaults)

    assert (plain.model, plain.max_output_tokens, plain.priority) == ("big", 10, 2)
    assert plain.name == "book/1-in-00001.txt"
    assert (own.max_output_tokens, own.priority) == (5, 0)


def test_null_is_as_good_as_absent(tmp_path: Path) -> None:
    """Programs write null for what they do not have."""
    names = ("custom_id", "model", "system", "messages", "output", "metadata", "params")
    line = {"prompt": "x", "priority": None, "max_output_tokens": None} | dict.fromkeys(names)

    assert job(tmp_path, line).custom_id == "in-00001"


def test_a_text_file_has_a_prompt_per_line(tmp_path: Path) -> None:
    """Nothing in a line is markup; its number counts the empty ones, too."""
    found = read(tmp_path, b'{"not": "json', b"", "Ünï".encode(), b"\xff", name="my ideas.txt")

    first, second, third = found
    assert isinstance(first, JobSpec)
    assert isinstance(second, JobSpec)
    assert first.custom_id == "my ideas-00001"
    assert json.loads(first.body)["messages"][0]["content"] == '{"not": "json'
    assert (second.custom_id, json.loads(second.body)["messages"][0]["content"]) == (
        "my ideas-00003",
        "Ünï",
    )
    assert str(third) == f"{tmp_path}/my ideas.txt:4: it is not UTF-8: byte 0xff at column 1"


def test_standard_input_is_called_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In names and in errors."""
    path = tmp_path / "piped"
    path.write_text('{"prompt": "x"}\n{"prompt": 1}\n')
    with path.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)

        good, bad = read_inputs(["-"], DEFAULTS, warn=pytest.fail)

    assert isinstance(good, JobSpec)
    assert (good.custom_id, good.place) == ("stdin-00001", "stdin:1")
    assert str(bad).startswith("stdin:2: ")


def test_standard_input_is_read_once() -> None:
    """Naming it twice is a mistake that would read as an empty input."""
    with pytest.raises(UsageError, match="only once"):
        read_inputs(["-", "-"], DEFAULTS, warn=pytest.fail)


def test_a_missing_file_is_known_before_the_first_line_is_read(tmp_path: Path) -> None:
    """Inputs are looked at when they are named, not when their turn comes."""
    (tmp_path / "a.txt").write_text("x")

    with pytest.raises(UsageError, match=r"b\.txt: there is no such file"):
        read_inputs([tmp_path / "a.txt", tmp_path / "b.txt"], DEFAULTS, warn=pytest.fail)


def test_a_file_whose_name_is_no_text_can_be_named_in_an_error(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 in a file's name end neither the reading nor its complaint."""
    path = tmp_path / "b\udcff.jsonl"
    path.write_text('{"prompt": "x"}\n{}\n')

    good, bad = read_inputs([path], DEFAULTS, warn=pytest.fail)

    assert isinstance(good, JobSpec)
    assert good.custom_id == "b_-00001"
    assert str(bad).encode()


# --- what makes two lines the same ----------------------------------------------------------------
SAME = [
    {"prompt": "x"},
    {"messages": [{"content": "x", "role": "user"}]},
    {"prompt": "x", "model": "m", "custom_id": "other"},
    {"prompt": "x", "priority": 5, "max_output_tokens": 9, "metadata": {"a": 1}, "output": "o"},
    {"prompt": "x", "params": {"stream": True}},
    {"method": "POST", "url": CHAT, "body": {"messages": [{"role": "user", "content": "x"}]}},
]
OTHER = [
    {"prompt": "x "},
    {"prompt": "x", "model": "other"},
    {"prompt": "x", "system": ""},
    {"prompt": "x", "params": {"temperature": 0}},
    {"prompt": "x", "params": {"max_tokens": 9}},
]


@pytest.mark.parametrize("line", SAME, ids=str)
def test_the_same_request_has_the_same_content(tmp_path: Path, line: object) -> None:
    """Form, order, name, priority, budget and metadata make no other request."""
    assert job(tmp_path, line).content == job(tmp_path, SAME[0]).content


@pytest.mark.parametrize("line", OTHER, ids=str)
def test_another_request_has_another_content(tmp_path: Path, line: object) -> None:
    """A word, the model or a sampling parameter make another request."""
    assert job(tmp_path, line).content != job(tmp_path, SAME[0]).content


# --- what is refused ----------------------------------------------------------------------------
BAD: list[tuple[dict[str, object], str]] = [
    ({}, "neither prompt nor messages"),
    ({"prompt": "x", "messages": USER}, "both there"),
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": " \n"}, "the prompt is empty"),
    ({"prompt": 7}, "prompt must be a string, not a number"),
    ({"prompt": ["x"]}, "prompt must be a string, not an array"),
    ({"prompt": "x", "custom_id": ["a"]}, "custom_id must be a string, not an array"),
    ({"prompt": "x", "custom_id": 5}, "custom_id must be a string, not a number"),
    ({"prompt": "x", "custom_id": "../x"}, "slash"),
    ({"prompt": "x", "output": "/etc/passwd"}, "relative"),
    ({"prompt": "x", "output": {}}, "output must be a string, not an object"),
    ({"prompt": "x", "system": 1}, "system must be a string"),
    ({"prompt": "x", "model": ""}, "no name of a model"),
    ({"prompt": "x", "model": "a\nb"}, "no name of a model"),
    ({"prompt": "x", "model": 1}, "model must be a string"),
    ({"prompt": "x", "metadata": "m"}, "metadata must be an object, not a string"),
    ({"prompt": "x", "params": []}, "params must be an object, not an array"),
    ({"prompt": "x", "params": {"model": "y"}}, "params must not hold model"),
    ({"prompt": "x", "params": {"messages": USER}}, "params must not hold messages"),
    ({"prompt": "x", "params": {"n": 2}}, "n: a job is one answer"),
    ({"prompt": "x", "params": {"n": True}}, "n: a job is one answer"),
    ({"prompt": "x", "params": {"n": []}}, "n: a job is one answer"),
    ({"prompt": "x", "params": {"max_tokens": 0}}, "max_tokens must be a whole number"),
    ({"prompt": "x", "params": {"max_completion_tokens": -1}}, "max_completion_tokens must be"),
    ({"prompt": "x", "max_output_tokens": 0}, "from 1 to 2147483647, not 0"),
    ({"prompt": "x", "max_output_tokens": -1}, "from 1 to 2147483647, not -1"),
    ({"prompt": "x", "max_output_tokens": 1e308}, "from 1 to 2147483647, not 1e+308"),
    ({"prompt": "x", "max_output_tokens": 5.0}, "from 1 to 2147483647, not 5.0"),
    ({"prompt": "x", "max_output_tokens": 10**30}, "from 1 to 2147483647, not a number"),
    ({"prompt": "x", "max_output_tokens": True}, "from 1 to 2147483647, not true or false"),
    ({"prompt": "x", "max_output_tokens": "9"}, "from 1 to 2147483647, not a string"),
    ({"prompt": "x", "priority": 2**31}, "priority must be a whole number"),
    ({"prompt": "x", "priority": 1.5}, "priority must be a whole number"),
    ({"messages": []}, "messages is empty"),
    ({"messages": "hi"}, "messages must be an array, not a string"),
    ({"messages": ["hi"]}, r"messages[0] must be an object, not a string"),
    ({"messages": [{"content": "x"}]}, r"messages[0] has no role"),
    ({"messages": [*USER, {"role": ""}]}, r"messages[1] has no role"),
    ({"messages": [{"role": "user", "content": 5}]}, r"messages[0].content must be a string"),
    ({"messages": [{"role": "system", "content": "x"}], "system": "y"}, "system is there twice"),
    ({"prompt": "x", "api_key": "sk-1"}, "'api_key' must not stand in an input"),
    ({"prompt": "x", "Authorization": "Bearer sk-1"}, "'Authorization' must not stand"),
    ({"prompt": "x", "extra_headers": {}}, "'extra_headers' must not stand"),
    ({"prompt": "x", "params": {"API-Key": "sk-1"}}, "'API-Key' must not stand"),
    ({"url": CHAT, "body": {"messages": USER, "api_key": "sk"}}, "'api_key' must not stand"),
    ({"url": CHAT, "body": {"messages": []}}, "messages is empty"),
    ({"url": CHAT, "body": {"prompt": "x"}}, "messages must be an array, not null"),
    ({"url": CHAT}, "body is missing"),
    ({"url": CHAT, "body": "x"}, "body must be an object"),
    ({"url": CHAT, "body": {"messages": USER}, "prompt": "x"}, "prompt belongs into body"),
    ({"url": CHAT, "method": "GET", "body": {"messages": USER}}, "method must be POST, not 'GET'"),
    ({"url": "/v1/responses", "body": {}}, "url '/v1/responses' is not supported yet"),
    ({"url": "/v1/completions", "body": {}}, "url '/v1/completions' is not supported yet"),
    ({"url": "http://evil/v1", "body": {}}, "url 'http://evil/v1' is not known"),
    ({"url": CHAT, "body": {"messages": USER, "model": None, "n": 3}}, "n: a job is one answer"),
]


@pytest.mark.parametrize(("line", "why"), BAD, ids=[str(line)[:60] for line, _ in BAD])
def test_a_line_that_is_no_job_says_why(tmp_path: Path, line: dict[str, object], why: str) -> None:
    """One sentence with file and line, which never repeats a secret."""
    found = reason(tmp_path, line)

    assert why in found
    assert "sk-1" not in found


def test_a_line_without_any_model_says_where_to_name_one(tmp_path: Path) -> None:
    """No default is made up."""
    found = reason(tmp_path, {"prompt": "x"}, defaults=InputDefaults(batch="b"))

    assert "--model" in found


@pytest.mark.parametrize(
    "asked",
    [
        {"max_output_tokens": 0},
        {"max_output_tokens": 2**31},
        {"priority": 2**31},
        {"priority": -(2**31)},
    ],
    ids=str,
)
def test_defaults_that_no_line_could_say_are_refused(asked: dict[str, int]) -> None:
    """A number that the database cannot hold is found before a line is read."""
    with pytest.raises(UsageError, match="must be a whole number from"):
        InputDefaults(batch="b", **asked)  # type: ignore[arg-type]


def test_bad_lines_do_not_stop_the_good_ones(tmp_path: Path) -> None:
    """Everything that is wrong is told in one go."""
    found = read(tmp_path, {"prompt": "a"}, b"{broken", {"prompt": "b"}, {"prompt": 1})

    assert [isinstance(line, JobSpec) for line in found] == [True, False, True, False]
    assert [line.line for line in found] == [1, 2, 3, 4]


# --- fields that nobody knows ---------------------------------------------------------------------
def test_an_unknown_field_is_warned_of_once(tmp_path: Path) -> None:
    """However many lines have it; the job is taken without it."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "temprature": 1}\n' * 3 + '{"prompt": "a", "colour": 1}\n')
    said: list[str] = []

    found = list(read_inputs([path], DEFAULTS, warn=said.append))

    assert [isinstance(line, JobSpec) for line in found] == [True] * 4
    assert said == [
        f"{path}:1: the field 'temprature' is not known; it is left out",
        f"{path}:4: the field 'colour' is not known; it is left out",
    ]


def test_warnings_end_when_every_line_has_another_unknown_field(tmp_path: Path) -> None:
    """What is remembered of an input does not grow with it."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"prompt": "a", "f{n}": 1}}\n' for n in range(1000)))
    said: list[str] = []

    found = list(read_inputs([path], DEFAULTS, warn=said.append))

    assert len(found) == 1000
    assert len(said) == 50
