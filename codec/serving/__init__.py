"""Many live streams of one model, batched in one thread, with an asyncio face, and a websocket server; see docs/serving.md.

`Batcher` is the asyncio face; `codec.serving.server` needs aiohttp, which nothing else here does.
"""

from __future__ import annotations

from codec.serving.batcher import Batcher, Full
from codec.serving.engine import Engine, Job, Output
from codec.serving.live_stream import LiveStream, SlowReader

__all__ = ["Batcher", "Engine", "Full", "Job", "LiveStream", "Output", "SlowReader"]
