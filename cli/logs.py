"""What the parts log, as one line each on stderr; a traceback only when it is asked for."""

from __future__ import annotations

import logging

from cli.printing import say


class _Lines(logging.Handler):
    """Writes to whatever stderr is at that moment: a progress bar may stand there."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class _Short(logging.Formatter):
    def formatException(self, ei: object) -> str:  # noqa: ARG002, N802 - logging's own names
        return ""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).rstrip()
        error = record.exc_info[1] if record.exc_info else None
        return f"{line} ({type(error).__name__}: {error})" if error is not None else line


def log_to_stderr(*, debug: bool) -> None:
    """Send warnings and worse to stderr, one line each; with `debug` with their tracebacks."""
    handler = _Lines()
    kind = logging.Formatter if debug else _Short
    handler.setFormatter(kind("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
