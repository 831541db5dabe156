"""What an object store's refusal means, in a sentence that can be shown to anybody.

The library's own messages repeat addresses and answers of the server, which may hold key ids and
signatures: nothing of them is handed on but a status and an error code.
"""

from __future__ import annotations

import errno
import re

#: Where each store's credentials are looked for.
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
}
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>").search
_STATUS = re.compile(r"status code: ([0-9]{3})\b").search
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_OTHER_REGION = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_DENIED = frozenset({401, 403})
_DENIED_TYPES = frozenset({"PermissionDeniedError", "UnauthenticatedError"})
#: Asked for credentials when the environment has none, or said about half of them.
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|169\.254\.170\.2|metadata\.google\.internal|"
    r"Missing (?:AccessKeyId|SecretAccessKey)|Account must be specified"
).search
_UNREACHED = re.compile(r"error sending request|timed out|timeout|connect|dns|HTTP error").search


def refusal(error: BaseException, *, scheme: str, bucket: str) -> OSError:
    """Give what to raise and show instead of an error of the library."""
    text = str(error)
    variables = _VARIABLES.get(scheme, "its variables")
    found = _STATUS(text)
    status = int(found[1]) if found else None
    code = match[1] if (match := _CODE(text)) else None
    if _NO_CREDENTIALS(text):
        said = f"there are no credentials: set {variables} for the worker and start it again"
        return PermissionError(errno.EACCES, said)
    if code in _NO_BUCKET or (code is None and isinstance(error, FileNotFoundError)):
        # Not FileNotFoundError, which says that the object is missing.
        return OSError(errno.EIO, f"there is no bucket {bucket}: make it, or mend the endpoint")
    if code in _OTHER_REGION:
        return OSError(errno.EIO, f"the bucket {bucket} lies in another region: set AWS_REGION")
    if status in _DENIED or type(error).__name__ in _DENIED_TYPES:
        why = f" ({code})" if code else ""
        said = f"the server refuses the credentials{why}: check {variables} and what they may do"
        return PermissionError(errno.EACCES, said)
    if status is not None:
        said = f"the server answers {status}" + (f" ({code})" if code else "")
    elif _UNREACHED(text):
        said = "the server cannot be reached, or does not answer"
    else:
        said = f"the request failed ({type(error).__name__})"
    return OSError(errno.EIO, said)
