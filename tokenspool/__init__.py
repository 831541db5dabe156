"""Spools long language-model streams to storage, and never asks for the same token twice.

A service enqueues jobs and follows their texts with what stands here; workers do the rest.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenspool.api import Enqueued, enqueue, transaction
    from tokenspool.batches import Batch, open_batch
    from tokenspool.errors import ErrorKind, TokenspoolError, Unavailable, UsageError
    from tokenspool.following import Piece
    from tokenspool.jobs import JobNotDoneError, JobView
    from tokenspool.model import JobState
    from tokenspool.store.reads import Counts

__all__ = [
    "Batch",
    "Counts",
    "Enqueued",
    "ErrorKind",
    "JobNotDoneError",
    "JobState",
    "JobView",
    "Piece",
    "TokenspoolError",
    "Unavailable",
    "UsageError",
    "__version__",
    "enqueue",
    "open_batch",
    "transaction",
]

__version__ = "0.1.0"

#: Name -> where it is. Read when it is meant: the command and the workers import us, too.
_HOMES = {
    "Batch": "batches",
    "Counts": "store.reads",
    "Enqueued": "api",
    "ErrorKind": "errors",
    "JobNotDoneError": "jobs",
    "JobState": "model",
    "JobView": "jobs",
    "Piece": "following",
    "TokenspoolError": "errors",
    "Unavailable": "errors",
    "UsageError": "errors",
    "enqueue": "api",
    "open_batch": "batches",
    "transaction": "api",
}

if not TYPE_CHECKING:  # else a type checker would believe in every name

    def __getattr__(name: str) -> object:
        """Read the file that a name is in, the first time it is asked for."""
        if name not in _HOMES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        import importlib  # noqa: PLC0415 - `tokenspool --help` needs none of it

        found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = found
        return found
