"""Many live streams of one model: batched in one thread, with an asyncio face, and a websocket server (docs/serving.md).

`Batcher` is the asyncio face; `codec.serving.server` needs aiohttp, which nothing else here does.
"""

from __future__ import annotations

from codec.serving.batcher import Batcher, Full, LiveStream, SlowReader
from codec.serving.engine import Engine, Job, Output

__all__ = ["Batcher", "Engine", "Full", "Job", "LiveStream", "Output", "SlowReader"]
