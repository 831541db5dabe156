"""What refusals mean, and what of them is shown."""

from __future__ import annotations

import httpx2
import openai
import pytest

from pipeline.sources.failures import (
    EXCERPT_BYTES,
    MAX_MESSAGE,
    Site,
    clean,
    error_in_answer,
    excerpt,
    failure_of,
    request_id,
)
from tokenspool.errors import ErrorKind, StreamError

SITE = Site(host="host", secret="sk-abcdef0123456789")  # noqa: S106 - that is what is tested
REQUEST = httpx2.Request("POST", "http://host/v1/chat/completions")


def _refuse(status: int, body: object, **headers: str) -> StreamError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, json=body, headers=named, request=REQUEST)
    inner = body.get("error", body) if isinstance(body, dict) else body
    return failure_of(openai.APIStatusError("refused", response=response, body=inner), SITE)


def _error(message: str = "no", **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, _error(code="context_length_exceeded"), "request"),
        (400, _error(code="content_filter"), "content_filter"),
        (
            400,
            {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400},
            "request",
        ),
        (401, _error(code="invalid_api_key"), "auth"),
        (402, _error("Insufficient Balance"), "rate_limited"),
        (403, _error("You have no access to this project"), "auth"),
        (403, _error(code="unsupported_country_region_territory"), "request"),
        (403, _error("Your input was flagged", metadata={}), "request"),
        (404, _error("The model `x` does not exist", code="model_not_found"), "request"),
        (404, {"detail": "Not Found"}, "connect"),
        (405, {"detail": "Method Not Allowed"}, "connect"),
        (408, None, "server"),
        (409, None, "server"),
        (413, _error("too large"), "request"),
        (415, None, "request"),
        (422, {"detail": [{"loc": ["body"], "msg": "wrong"}]}, "request"),
        (425, None, "overloaded"),
        (429, _error(code="insufficient_quota"), "rate_limited"),
        (429, _error("overloaded"), "rate_limited"),
        (500, _error("rate limit"), "server"),
        (502, None, "overloaded"),
        (503, _error(type="server_error"), "overloaded"),
        (504, None, "overloaded"),
        (524, None, "overloaded"),
        (529, _error(type="overloaded_error"), "overloaded"),
        (307, None, "connect"),
    ],
)
def test_a_status_has_its_kind(status: int, body: object, kind: str) -> None:
    """Whose fault a refusal is, and whether it is tried again, follows from its kind."""
    error = _refuse(status, body)

    assert (error.kind.value, error.status) == (kind, status)


@pytest.mark.parametrize(
    "body",
    [
        _error(code="model_not_found"),
        {"object": "error", "message": "The model `m` does not exist.", "code": 404},
        _error("model 'm' not found, try pulling it first", type="api_error"),
        _error("x", code="DeploymentNotFound"),
        [_error("models/m is not found for API version v1", code=404)],
    ],
)
def test_an_unknown_model_has_one_code(body: object) -> None:
    """However a server says that it has no such model, the engine is told by one code."""
    error = _refuse(404, body)

    assert (error.kind, error.code) == (ErrorKind.REQUEST, "model_not_found")


def test_a_spent_quota_keeps_its_code() -> None:
    """A quota that is spent waits like a rate limit, but can be told from one."""
    assert _refuse(429, _error(code="insufficient_quota")).code == "insufficient_quota"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429, "message": "x"}, "rate_limited"),
        ({"code": "502"}, "overloaded"),
        ({"status": "RESOURCE_EXHAUSTED"}, "rate_limited"),
        ({"status": 503}, "overloaded"),
        ({"type": "InternalServerError"}, "server"),
        ({"type": "overloaded_error"}, "overloaded"),
        ({"type": "invalid_request_error"}, "request"),
        ({"type": "requests", "code": "rate_limit_exceeded"}, "rate_limited"),
        ({"message": "maximum context length is 8"}, "request"),
        ({"error": {"message": "Too many requests"}}, "rate_limited"),
        ("Model is overloaded", "overloaded"),
        ({"message": {"odd": 1}}, "server"),
        (["x"], "server"),
        ([], "server"),
        (7, "server"),
    ],
)
def test_an_error_in_an_answer_has_a_kind(error: object, kind: str) -> None:
    """An error inside of a 200, whatever its form, is one of our kinds."""
    assert error_in_answer(error, SITE).kind.value == kind


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (httpx2.ConnectError("refused"), "connect"),
        (httpx2.ConnectTimeout("slow"), "connect"),
        (httpx2.ProxyError("no"), "connect"),
        (httpx2.UnsupportedProtocol("ftp"), "connect"),
        (httpx2.ReadTimeout("slow"), "first_byte_timeout"),
        (httpx2.RemoteProtocolError("gone"), "network"),
        (httpx2.ReadError("gone"), "network"),
    ],
)
def test_a_fault_of_the_network_has_its_kind(cause: Exception, kind: str) -> None:
    """A connection that was never there is the endpoint's; one that broke is the network's."""
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = cause

    assert failure_of(error, SITE).kind.value == kind


def test_silence_while_reading_is_idleness() -> None:
    """The same timeout has another name once the answer has begun."""
    error = failure_of(httpx2.ReadTimeout("slow"), SITE, reading=True)

    assert error.kind is ErrorKind.IDLE_TIMEOUT


def test_no_key_is_ever_shown() -> None:
    """A server that echoes the key, a header or something like a key does not get it into a log."""
    error = _refuse(
        401, _error(f"Incorrect key {SITE.secret}; Authorization: Bearer abc.def; sk-other*****9")
    )

    assert SITE.secret not in error.message
    assert "abc.def" not in error.message
    assert "other" not in error.message


def test_a_key_that_does_not_look_like_one_is_not_shown() -> None:
    """Keys have any form: what was given as the key is taken out as it is."""
    assert clean("no plain+key/01= here", "plain+key/01=") == "no *** here"


@pytest.mark.parametrize("before", range(EXCERPT_BYTES - 40, EXCERPT_BYTES + 2))
def test_a_key_that_the_cut_goes_through_is_not_shown(before: int) -> None:
    """Half a key is a secret too, and it does not match the whole one any more."""
    secret = "plainkey" * 5
    data = b"<i>" * (before // 3) + b" " * (before % 3) + secret.encode() + b"end"

    assert "plain" not in excerpt(data, secret)


def test_a_request_id_that_echoes_the_key_is_cleaned() -> None:
    """Some gateways send back what they were sent."""
    assert request_id({"x-request-id": f"id-{SITE.secret}"}, SITE.secret) == "id-***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\r\n c\x1b[31m\u202e d", "a b c [31m d"),
        ("<!doctype html><title>t</title><style>p{}</style><p>Bad <b>Gateway</b>", "Bad Gateway"),
        ("x < y > z", "x < y > z"),
        ("  ", ""),
    ],
)
def test_a_message_is_one_line_for_a_person(text: str, shown: str) -> None:
    """Control characters and tags would break a terminal or a table."""
    assert clean(text) == shown


def test_a_message_is_short() -> None:
    """A page of HTML as an error does not fill the database."""
    assert len(_refuse(500, _error("x" * 10_000)).message) <= MAX_MESSAGE + len(
        "host answered 500: "
    )


def test_a_request_can_be_asked_about() -> None:
    """The provider's own name of a refused request is kept."""
    assert _refuse(500, None, x_request_id="req_1").request_id == "req_1"


def test_the_wait_that_is_asked_for_is_kept() -> None:
    """`Retry-After` reaches the gate, from the header or from the sentence."""
    assert _refuse(429, _error(), retry_after="7").retry_after_s == 7
    assert _refuse(429, _error("Please try again in 1m2s.")).retry_after_s == 62


def test_the_word_that_stands_for_no_key_is_no_secret() -> None:
    """A server without a key may say "none": nothing of its message is hidden."""
    site = Site.of("http://host/v1", "none")

    error = error_in_answer({"message": "none of the models is loaded"}, site)

    assert error.message.endswith("none of the models is loaded")
