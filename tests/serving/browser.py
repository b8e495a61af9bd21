"""A headless browser with a microphone that plays a file, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

BINARY = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None)


class Tab:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket, self._numbers = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future] = {}
        self.errors: list[str] = []
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            fields = message.json()
            if "id" in fields:
                self._answers.pop(fields["id"]).set_result(fields)
            elif fields["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(fields["params"]["exceptionDetails"])[:1000])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        fields = await asyncio.wait_for(self._answers[number], 30)
        if "error" in fields:
            raise RuntimeError(f"{method}: {fields['error']}")
        return fields["result"]

    async def value(self, expression: str) -> Any:
        """Of JavaScript in the page; a user's gesture, so that sound may play."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 90) -> None:
        for _ in range(int(seconds / 0.1)):
            if await self.value(f"Boolean({expression})"):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {expression}; errors: {self.errors}")

    async def size(self, width: int, height: int, scale: float = 1, dark: bool = True) -> None:
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path) -> None:
        result = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(result["data"]))


@asynccontextmanager
async def browser(microphone: Path):
    """A tab of a new browser, whose microphone plays a WAV file again and again."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            BINARY, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = Path(folder) / "DevToolsActivePort"
            for _ in range(300):
                if port.exists() and port.read_text().count("\n"):
                    break
                await asyncio.sleep(0.1)
            address = f"http://127.0.0.1:{port.read_text().split()[0]}"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{address}/json/list") as answer:
                    pages = [page for page in await answer.json() if page["type"] == "page"]
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    await tab.call("Runtime.enable")
                    await tab.call("Page.enable")
                    yield tab
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()
