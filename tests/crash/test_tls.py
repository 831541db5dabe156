"""Over TLS, as every provider is reached: the same promises."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.crash.stage import MODEL, Stage, ending, wait_until
from tests.crash.verifier import verify
from tests.unit.sources.tls import LOCALHOST, serving


@pytest.mark.slow
def test_a_kill_over_tls_loses_nothing(stage: Stage) -> None:
    """Texts that come encrypted are whole to the byte, through a kill as well."""
    stage.environment["SSL_CERT_FILE"] = str(LOCALHOST)
    prompts = stage.prompts([200] * 16)
    with _front(stage.simulator.base_url) as url:
        command = stage.command(
            "run", prompts, "-o", stage.out, "--base-url", url, "--model", MODEL
        )  # fmt: skip
        with ending(stage.start(command)) as run:
            wait_until(lambda: stage.simulator.stats()["generated"] > 16 * 50, of=run)
            run.kill()
        stage.done(command)

    state = verify(stage.database, reference=stage.reference)
    assert {seam["cause"] for seam in state.seams} == {"crash"}


@contextlib.contextmanager
def _front(url: str) -> Iterator[str]:
    """Serve what is behind `url` over TLS as well."""
    port = urlsplit(url).port
    loop = asyncio.new_event_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, behind[1]), carry(behind[0], writer))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving()))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()
