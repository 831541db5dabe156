"""The root of an output: a folder, or a bucket of an object store with a prefix in it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tokenspool.errors import UsageError
from tokenspool.names import MAX_NAME_BYTES, quoted

#: Object stores there are; the first is the one that is tested.
SCHEMES = ("s3", "gs", "az")
#: The longest key that all of them take is 1,024 bytes.
MAX_PREFIX_BYTES = 1024 - MAX_NAME_BYTES - 1

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}").fullmatch
_SECRET = re.compile(r"(?<=://)[^/]*@|[?#].*", re.DOTALL)


def is_url(root: str) -> bool:
    """Tell whether a root is an object store's; a folder's root has no scheme."""
    return "://" in root


def checked_url(url: str) -> str:
    """Give the one name of a root like `s3://bucket/prefix`; raises `UsageError`.

    Nothing is asked of the store. Credentials belong into the environment, so a URL that could hold
    some is refused, and not repeated.

    >>> checked_url("s3://texts/book-7/")
    's3://texts/book-7'
    """
    shown = quoted(_SECRET.sub("", url))
    try:
        parts = urlsplit(url)
    except ValueError as error:
        msg = f"the output {shown} is not a URL like s3://BUCKET/PREFIX"
        raise UsageError(msg) from error
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        msg = f"the output {shown}: there is no {parts.scheme}://; there are folders, and {known}"
        raise UsageError(msg)
    if "@" in parts.netloc or "?" in url or "#" in url:
        msg = (
            f"the output {shown} may hold a bucket and a prefix only, no user, query or fragment;"
            " credentials come from the environment of the workers"
        )
        raise UsageError(msg)
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if not _BUCKET(bucket) or ".." in bucket:
        msg = f"the output {shown}: {quoted(bucket)} cannot be a bucket's name"
        raise UsageError(msg)
    prefix = prefix.rstrip("/")
    _check_prefix(shown, prefix)
    return f"{parts.scheme}://{bucket}/{prefix}".rstrip("/")


def _check_prefix(shown: str, prefix: str) -> None:
    if not prefix:
        return
    if not prefix.isprintable() or "\\" in prefix:
        msg = f"the output {shown} has a character in its prefix that cannot be shown, or a \\"
        raise UsageError(msg)
    if any(part.strip(" ") != part or not part.strip(".") for part in prefix.split("/")):
        msg = (
            f"the output {shown}: a part of the prefix is empty, nothing but dots, or begins or"
            " ends with a space"
        )
        raise UsageError(msg)
    if len(prefix.encode(errors="replace")) > MAX_PREFIX_BYTES:
        msg = f"the output {shown}: the prefix is longer than {MAX_PREFIX_BYTES} bytes"
        raise UsageError(msg)
