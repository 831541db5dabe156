"""The limit that nobody beats: aiohttp that reads and counts bytes, and does nothing with them.

python -P -m benchmarks.bare PROMPTS FOLDER BASE_URL STREAMS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.meter import Meter

#: Each token is an event, and each event has exactly one of these.
_EVENT = b"\n\n"


async def _answer(
    session: aiohttp.ClientSession, url: str, line: dict[str, Any], slots: asyncio.Semaphore
) -> int:
    events = 0
    body = {
        "model": "sim-1",
        "messages": [{"role": "user", "content": line["prompt"]}],
        "stream": True,
        **line.get("params", {}),
    }
    async with slots, session.post(f"{url}/chat/completions", json=body) as answer:
        async for data in answer.content.iter_any():
            events += data.count(_EVENT)
    return events


async def _main(lines: list[dict[str, Any]], base_url: str, streams: int) -> None:
    meter = Meter()
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        slots = asyncio.Semaphore(streams)
        events = await asyncio.gather(*(_answer(session, base_url, line, slots) for line in lines))
    meter.tell(chunks=sum(events))


if __name__ == "__main__":
    asked = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    asyncio.run(_main(asked, sys.argv[3], int(sys.argv[4])))
