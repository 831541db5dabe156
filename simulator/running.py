"""Running a simulator as a process: loop, signals, and as many connections as the system allows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

from simulator.server import serve
from simulator.settings import SimSettings


def run(settings: SimSettings, ready: Callable[[str], None], *, with_parent: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C; `with_parent` also until standard input ends.

    `ready` is told the base URL. Raises OSError if the address cannot be bound.
    """
    _allow_many_files()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_until_told(settings, ready, with_parent=with_parent))


async def _until_told(
    settings: SimSettings, ready: Callable[[str], None], *, with_parent: bool
) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # no signal handlers on Windows
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)
    if with_parent:
        # Also when the parent is killed: its end of the pipe is closed by the system.
        loop.add_reader(sys.stdin.fileno(), told.set)
    serving = asyncio.create_task(serve(settings, ready))
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's loop where there is one; it sends twice as many events a second."""
    try:
        import uvloop  # noqa: PLC0415 - only where it is installed
    except ImportError:
        return None
    return uvloop.new_event_loop


def _allow_many_files() -> None:
    """Raise the limit of open files as far as the system allows: each connection is one."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not there on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
