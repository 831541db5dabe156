"""Backpressure: how much text may wait for the journal, and who has to stop reading meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque

#: One stream may hold this much; the others shall not starve because one is fast.
STREAM_BYTES = 1024 * 1024


class Budget:
    """A process-wide bound on bytes received but not yet committed.

    Half of the limit is for what waits to be committed. The other half belongs to the sockets: each
    slot's receive buffer is fixed to its share (`receive_bytes`), so that even when all of them are
    resumed at once after a stall, what they deliver fits.
    """

    def __init__(self, limit_bytes: int, *, slots: int) -> None:
        """Split the limit over the slots."""
        self._limit = limit_bytes // 2
        self.receive_bytes = min(max(limit_bytes // 2 // max(1, slots), 4096), 65536)
        self.used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether readers must wait."""
        return self.used >= self._limit

    def take(self, size: int) -> None:
        """Count bytes that wait for the journal."""
        self.used += size

    def give(self, size: int) -> None:
        """Count bytes as committed or dropped, and let readers go on."""
        self.used -= size
        while self._waiting and not self.is_full:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    async def room(self) -> None:
        """Return when a reader may take more."""
        while self.is_full:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
