"""`prismtop serve`: the screen in headless Chromium, and who may not see it."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only"),
    pytest.mark.skipif(
        importlib.util.find_spec("textual_serve") is None, reason='the extra is missing: pip install ".[web]"'
    ),
]
WAIT_S = 60.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of `prismtop serve --demo`."""
    log = tmp_path / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "prismtop", "serve", "--demo", "--port", "0"],
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        end = time.monotonic() + WAIT_S
        while (
            not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) and time.monotonic() < end
        ):
            time.sleep(0.05)
        assert found is not None, log.read_text()
        yield found[0]
    finally:
        server.terminate()
        server.wait(30)


async def test_only_its_own_pages_are_answered(served: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for headers, status in (
            ({}, 200),
            ({"Origin": served}, 200),
            ({"Origin": "http://evil.example"}, 403),
            ({"Host": "evil.example"}, 403),
        ):
            async with session.get(served, headers=headers) as answer:
                assert answer.status == status, headers
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{served}/ws", headers={"Origin": "http://evil.example"})


class Browser:
    """Chromium's debugging protocol, as far as it is needed here."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await asyncio.wait_for(self._socket.receive_json(), WAIT_S)
            if answer.get("id") == number:
                return dict(answer.get("result", {}))

    async def has_class(self, name: str) -> bool:
        found = await self.call("Runtime.evaluate", expression=f"document.body.classList.contains('{name}')")
        return found["result"].get("value") is True

    async def wait_for_class(self, name: str) -> None:
        end = time.monotonic() + WAIT_S
        while not await self.has_class(name):
            assert time.monotonic() < end, f"the page never became {name}"
            await asyncio.sleep(0.2)

    async def picture_bytes(self) -> int:
        """Size of a picture of the page: an empty one is small."""
        picture = base64.b64decode((await self.call("Page.captureScreenshot"))["data"])
        kept = os.environ.get("PRISMTOP_WEB_PICTURE")
        if kept:
            Path(kept).write_bytes(picture)
        return len(picture)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_browser_shows_the_screen_and_its_keys_work(served: str, tmp_path: Path) -> None:
    import aiohttp

    profile = tmp_path / "profile"
    chromium = subprocess.Popen(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--window-size=1300,800", "--remote-debugging-port=0",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}", served,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port_file = profile / "DevToolsActivePort"
        end = time.monotonic() + WAIT_S
        while not (port_file.exists() and port_file.read_text().strip()):
            assert time.monotonic() < end, "chromium did not start"
            await asyncio.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                browser = Browser(socket)
                await browser.wait_for_class("-first-byte")
                end = time.monotonic() + WAIT_S
                # The empty page is some 15 kB, one full of text well above 40.
                while await browser.picture_bytes() < 40_000:
                    assert time.monotonic() < end, "the screen was not drawn"
                    await asyncio.sleep(0.5)
                assert not await browser.has_class("-closed")
                focus = "document.querySelector('.xterm-helper-textarea').focus()"
                await browser.call("Runtime.evaluate", expression=focus)
                for kind in ("keyDown", "keyUp"):
                    await browser.call("Input.dispatchKeyEvent", type=kind, key="q", text="q", code="KeyQ",
                                       windowsVirtualKeyCode=81)  # fmt: skip
                await browser.wait_for_class("-closed")
    finally:
        chromium.terminate()
        chromium.wait(30)
