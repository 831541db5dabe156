"""Refusals of an object store: what they mean, and nothing of what they quote."""

from __future__ import annotations

import pytest

from pipeline.outputs.refusals import refusal

_ANSWER = (
    "Generic S3 error: Error performing PUT http://user:pw@host/bucket/x in 1ms - Server returned"
    " non-2xx status code: {status} Nope: <Error><Code>{code}</Code><AWSAccessKeyId>AKIASECRET"
    "</AWSAccessKeyId><StringToSign>pw</StringToSign></Error>"
)


class PermissionDeniedError(Exception):
    """Called as the library calls it."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Exception(_ANSWER.format(status=404, code="NoSuchBucket")), "there is no bucket texts"),
        (FileNotFoundError("not found: status code: 404"), "there is no bucket texts"),
        (
            FileNotFoundError(_ANSWER.format(status=404, code="NoSuchUpload")),
            "the server answers 404 (NoSuchUpload)",
        ),
        (
            Exception(_ANSWER.format(status=301, code="PermanentRedirect")),
            "the bucket texts lies in another region: set AWS_REGION",
        ),
        (
            Exception(_ANSWER.format(status=403, code="SignatureDoesNotMatch")),
            "the server refuses the credentials (SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID",
        ),
        (PermissionDeniedError("pw"), "the server refuses the credentials: check"),
        (
            Exception(_ANSWER.format(status=507, code="<pw>")),
            "the server answers 507",
        ),
        (Exception("PUT http://169.254.169.254/latest/api/token pw"), "there are no credentials"),
        (Exception("HTTP error: error sending request pw"), "cannot be reached"),
        (Exception("whatever pw"), "the request failed (Exception)"),
    ],
)
def test_a_refusal_is_one_sentence_without_a_secret(error: Exception, says: str) -> None:
    """Only a status, an error code and names of variables are ever shown."""
    told = refusal(error, scheme="s3", bucket="texts")

    assert says in str(told.strerror)
    for secret in ("pw", "AKIASECRET", "host"):
        assert secret not in str(told)
    assert not isinstance(told, FileNotFoundError)
