"""A bucket of an object store, through obstore: the only place that knows the library.

Every call blocks, may be made from any thread, and raises OSError with a sentence that holds no
secret. The library takes credentials and endpoint from its environment variables.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
from obstore.store import from_url

from pipeline.outputs.refusals import refusal

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

#: One part of a multipart upload; a store takes 10,000 of them.
PART_BYTES = 8 * 1024 * 1024
#: Parts of one upload that are on their way at once.
PARTS_AT_ONCE = 2
CONNECT_S = 5.0
#: A request that writes, from begin to end: a part over a line of 1.2 Mbit/s.
WRITE_S = 60.0
#: The longest silence while an object is read.
SILENCE_S = 30.0
#: The library's own tries within one of ours.
_TRIES = 3
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_READ = 1024 * 1024
_NOT_IMPLEMENTED = "status code: 501"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands at a key."""

    e_tag: str | None
    #: What some stores compare instead of the tag.
    version: str | None = None
    size: int
    about: Mapping[str, str]


Condition = Literal["new", "any"] | Found
"""What must stand at a key for a put: nothing, anything, or what was found there."""


class Conflict(Exception):  # noqa: N818 - it reads as what it says
    """Something else stands at the key than the condition says."""


class Unconditional(Exception):  # noqa: N818 - it reads as what it says
    """The server knows no conditional puts."""


class Bucket:
    """One bucket."""

    def __init__(self, scheme: str, name: str) -> None:
        """Connect to nothing yet. Raises OSError for settings that the library does not take."""
        self._scheme, self._name = scheme, name
        with self._telling():
            self._writing = self._open({"timeout": timedelta(seconds=WRITE_S)})
            # A whole object may take its time, a server that falls silent may not.
            self._reading = self._open(
                {"timeout": timedelta(days=1), "read_timeout": timedelta(seconds=SILENCE_S)}
            )

    def look(self, key: str) -> Found | None:
        """Give what stands at a key; None if nothing does."""
        with self._telling():
            try:
                found = obstore.get(self._writing, key, options={"head": True})
            except FileNotFoundError:
                return None
            about = {str(name): str(value) for name, value in found.attributes.items()}
            meta = found.meta
            return Found(
                e_tag=meta["e_tag"], version=meta["version"], size=meta["size"], about=about
            )

    def put(self, key: str, data: bytes, about: Mapping[str, str], *, over: Condition) -> None:
        """Put a small object, in one request. Raises also Conflict, Unconditional."""
        with self._telling():
            try:
                obstore.put(
                    self._writing,
                    key,
                    data,
                    attributes=dict(about),
                    mode=_mode(over),
                    use_multipart=False,
                )
            except (AlreadyExistsError, PreconditionError) as error:
                raise Conflict from error
            except FileNotFoundError as error:
                # What was found is gone by now, or the whole bucket is.
                if isinstance(over, Found) and "NoSuchBucket" not in str(error):
                    raise Conflict from None
                raise
            except (NotSupportedError, NotImplementedError) as error:
                raise Unconditional from error
            except BaseError as error:
                if over != "any" and _NOT_IMPLEMENTED in str(error):
                    raise Unconditional from None
                raise

    def send(self, key: str, pieces: Iterator[bytes], about: Mapping[str, str]) -> None:
        """Put an object of any length in parts; it appears when the last piece was given.

        What `pieces` raises ends the upload, and the parts are removed. `pieces` is run where the
        library must not be called: from there, use another thread.
        """
        with self._telling():
            obstore.put(
                self._writing,
                key,
                pieces,
                attributes=dict(about),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def read(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes; raises FileNotFoundError if there is none."""
        with self._telling():
            try:
                found = obstore.get(self._reading, key)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise _MissingError from None
            for piece in found.stream(min_chunk_size=_READ):
                yield bytes(piece)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise the library's errors in our words; those of ours pass."""
        try:
            yield
        except _MissingError:
            raise FileNotFoundError(self._name) from None
        except (BaseError, FileNotFoundError, ValueError, TypeError) as error:
            raise refusal(error, scheme=self._scheme, bucket=self._name) from None

    def _open(self, client: ClientConfig) -> ObjectStore:
        client["connect_timeout"] = timedelta(seconds=CONNECT_S)
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        if self._scheme == "s3" and endpoint.startswith("http://"):
            # Said outright; the library wants it said twice.
            client["allow_http"] = True
        retries: RetryConfig = {
            "max_retries": _TRIES - 1,
            "retry_timeout": timedelta(seconds=WRITE_S),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        }
        return from_url(
            f"{self._scheme}://{self._name}", client_options=client, retry_config=retries
        )


def _mode(over: Condition) -> obstore.PutMode:
    if not isinstance(over, Found):
        return "create" if over == "new" else "overwrite"
    if over.e_tag is None:
        raise Unconditional
    known: obstore.UpdateVersion = {"e_tag": over.e_tag}
    # Left out and None are not the same to the library.
    if over.version is not None:
        known["version"] = over.version
    return known


class _MissingError(Exception):
    """The object is not there."""
