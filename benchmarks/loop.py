"""What people write by hand: a loop over the SDK's stream, appending to a file per prompt.

Started again, it skips the answers that were finished and begins the others anew.

    python -P -m benchmarks.loop PROMPTS FOLDER BASE_URL STREAMS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
from openai import AsyncOpenAI

from benchmarks.meter import Meter


async def _answer(
    client: AsyncOpenAI, line: dict[str, Any], folder: Path, slots: asyncio.Semaphore
) -> int:
    path = folder / f"{line['custom_id']}.md"
    if path.exists():
        return 0
    part = path.with_suffix(".part")
    chunks = 0
    async with slots:
        stream = await client.chat.completions.create(
            model="sim-1",
            messages=[{"role": "user", "content": line["prompt"]}],
            stream=True,
            **line.get("params", {}),
        )
        with part.open("w") as file:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    chunks += 1
                    file.write(chunk.choices[0].delta.content)
    part.rename(path)
    return chunks


async def _main(lines: list[dict[str, Any]], folder: Path, base_url: str, streams: int) -> None:
    # The SDK's own limit of connections is 1,000; and who writes this raises the timeout soon.
    limits = httpx2.Limits(max_connections=streams, max_keepalive_connections=streams)
    http = httpx2.AsyncClient(limits=limits, timeout=600, trust_env=False)
    meter = Meter()
    async with AsyncOpenAI(base_url=base_url, api_key="none", http_client=http) as client:
        slots = asyncio.Semaphore(streams)
        chunks = await asyncio.gather(*(_answer(client, line, folder, slots) for line in lines))
    meter.tell(chunks=sum(chunks))


if __name__ == "__main__":
    asked = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    into = Path(sys.argv[2])
    into.mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(asked, into, sys.argv[3], int(sys.argv[4])))
