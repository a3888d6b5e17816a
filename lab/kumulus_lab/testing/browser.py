"""A headless Chromium, told what to do by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from kumulus_lab.testing.cloud import Breach

# Without the last five it looks for Google's hosts at each start, which a closed network refuses one by one.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--window-size=1024,768",
)  # fmt: skip
_START_SECONDS = 60.0


class Page:
    """The browser's one page.

    Args:
        socket: of the page's DevTools.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and give its result; events that come meanwhile are dropped.

        Raises:
            Breach: Chromium refuses it.
        """
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == number:
                if "error" in answer:
                    raise Breach(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    async def open(self, address: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=address)

    async def value(self, script: str) -> Any:
        """Give what a script says; a promise is awaited. None while the page is changing."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> Any:
        """Ask the page until a script gives something, and give that.

        Raises:
            Breach: it did not within `seconds`; the message shows the page's text.
        """
        try:
            async with asyncio.timeout(seconds):
                while not (value := await self.value(script)):  # noqa: ASYNC110 - a page does not tell of its canvas
                    await asyncio.sleep(0.2)
                return value
        except TimeoutError:
            shown = await self.value("location.href + ' ' + document.body.innerText")
            raise Breach(f"not so within {seconds} s: {script}; the page: {shown}") from None

    async def screenshot(self, path: Path) -> bytes:
        """Save what the page shows as a PNG, and give its bytes."""
        answer = await self.call("Page.captureScreenshot", format="png")
        picture = base64.b64decode(answer["data"])
        await asyncio.to_thread(_write, path, picture)
        return picture

    async def type(self, text: str) -> None:
        """Press the keys that make a text; a line feed is Enter."""
        for character in text:
            enter = character == "\n"
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13} if enter else {"key": character}
            await self.call("Input.dispatchKeyEvent", type="keyDown", text="\r" if enter else character, **key)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **key)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Start Chromium with a profile of its own, and give its page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            "chromium", *_FLAGS, f"--user-data-dir={profile}", "about:blank",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not (port := await asyncio.to_thread(_port, Path(profile))):  # noqa: ASYNC110 - a file tells it
                    await asyncio.sleep(0.1)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    pages = [item for item in await answer.json() if item["type"] == "page"]
                address = pages[0]["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=64 << 20) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            await process.wait()


def _port(profile: Path) -> int:
    try:
        return int((profile / "DevToolsActivePort").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return 0


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
