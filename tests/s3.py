"""The S3 server of the tests, as they use it."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from typing import Any

_HEADERS = {
    "Authorization": (
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request,"
        " SignedHeaders=host, Signature=0"
    ),
    # Without it, it would be taken for a form.
    "Content-Type": "application/octet-stream",
}
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class S3:
    """A server and a bucket that nobody else uses."""

    url: str
    bucket: str = field(default_factory=lambda: f"texts-{next(_NUMBERS)}")

    @property
    def environment(self) -> dict[str, str]:
        """What the library wants to know."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIATESTONLY",
            "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-tests",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
        }

    def make(self) -> None:
        """Make the bucket."""
        self._ask(f"/{self.bucket}", method="PUT")

    def fresh(self) -> S3:
        """Give another bucket, that is there."""
        other = S3(self.url)
        other.make()
        return other

    def put(self, key: str, data: bytes) -> None:
        """Put an object that is not of tokenspool."""
        self._ask(self._path(key), method="PUT", data=data)

    def get(self, key: str) -> bytes | None:
        """Give an object; None if there is none."""
        try:
            return self._ask(self._path(key))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None

    def delete(self, key: str) -> None:
        """Delete an object."""
        self._ask(self._path(key), method="DELETE")

    def keys(self) -> list[str]:
        """List what is there."""
        listed = self._ask(f"/{self.bucket}?list-type=2").decode()
        return [unescape(key) for key in re.findall("<Key>(.*?)</Key>", listed)]

    def unfinished(self) -> int:
        """Count uploads in parts that were neither completed nor aborted."""
        return self._ask(f"/{self.bucket}?uploads").decode().count("<UploadId>")

    def fail(self, kind: str, *, times: int = 10**9, method: str = "PUT", query: str = "") -> None:
        """Trouble the next requests; a hang ends with `calm`."""
        fault = {"kind": kind, "times": times, "method": method, "query": query}
        self._ask("/-/fault", method="POST", data=json.dumps(fault).encode())

    def calm(self) -> None:
        """End all trouble."""
        self._ask("/-/calm", method="POST")

    def requests(self) -> list[Any]:
        """Give method, path and query of the requests for this bucket."""
        asked = json.loads(self._ask("/-/requests"))
        return [one for one in asked if one[1].split("/")[1] == self.bucket]

    def _path(self, key: str) -> str:
        return f"/{self.bucket}/{urllib.parse.quote(key)}"

    def _ask(self, path: str, *, method: str = "GET", data: bytes | None = None) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - loopback
            self.url + path, method=method, data=data, headers=_HEADERS
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            body: bytes = answer.read()
            return body


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    """Run a server; it ends with the block."""
    command = [sys.executable, "-P", "-m", "tests.s3server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield S3(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()
