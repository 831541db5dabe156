"""A real S3 server in a process of its own, `python -P -m tests.s3server`, that can be troubled.

It prints its port. `POST /-/fault` with `{"kind", "times", "method"}` makes the next requests of a
method fail: `500`, `503`, `403`, `hang` (until `POST /-/calm`), or `lost` (done, but answered 500).
`GET /-/requests` gives what was asked, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_HANG_S = 60.0
_ERROR = b'<?xml version="1.0"?><Error><Code>%s</Code><AWSAccessKeyId>%s</AWSAccessKeyId></Error>'
_CODES = {"500": b"InternalError", "503": b"SlowDown", "403": b"InvalidAccessKeyId"}


class Troubled:
    """The server behind a door that can be told to fail."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._fault: dict[str, Any] = {"times": 0}
        self._calm = threading.Event()
        self._requests: list[list[str]] = []
        self._guard = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        """Answer a request."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith("/-/"):
            return self._told(path, environ, start)
        query = environ.get("QUERY_STRING", "")
        with self._guard:
            self._requests.append([method, path, query])
            fault = self._fault
            meant = fault["times"] > 0 and fault["method"] in {method, "any"}
            meant = meant and fault.get("query", "") in query
            fault["times"] -= meant
        if not meant:
            return self._app(environ, start)
        kind = fault["kind"]
        # A request that is not read to its end would break the connection before its answer.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) if kind != "lost" else 0
        if kind == "hang":
            self._calm.wait(_HANG_S)
        if kind == "lost":
            list(self._app(environ, lambda *_: None))
        status = kind if kind in _CODES else "500"
        body = _ERROR % (_CODES[status], environ.get("HTTP_AUTHORIZATION", "").encode())
        start(f"{status} TROUBLE", [("Content-Type", "application/xml")])
        return [body]

    def _told(self, path: str, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._guard:
            if path == "/-/fault":
                self._fault = json.loads(body)
                self._calm = threading.Event()
            if path == "/-/calm":
                self._fault = {"times": 0}
                self._calm.set()
            answer = json.dumps(self._requests).encode()
        start("200 OK", [("Content-Type", "application/json")])
        return [answer]


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing: nobody reads it."""


def main() -> None:
    """Serve until the standard input ends."""
    app = Troubled(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
