"""A headless Chromium that opens a page, by its own debugging protocol; only for tests/e2e/test_dashboard.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from base64 import b64decode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
PATIENCE = 60  # seconds


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.number, self.requested = connection, 0, list[str]()
        self.send("Page.enable")
        self.send("Network.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
        """Send a command and return its result; note what the page requests meanwhile."""
        self.number += 1
        self.connection.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.connection.recv(timeout=PATIENCE))
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            elif message.get("method") == "Network.webSocketCreated":
                self.requested.append(message["params"]["url"])
            if message.get("id") == self.number:
                result: dict[str, Any] = message["result"]
                return result

    def ask(self, script: str) -> Any:  # noqa: ANN401
        """Return what an expression of JavaScript gives."""
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, url: str, width: int, *, until: str) -> None:
        """Open a URL in a window of this width, as high as the page, and wait until an expression is true."""
        self.resize(width, 900)
        self.send("Page.navigate", url=url)
        deadline = time.monotonic() + PATIENCE
        while not self.ask(until):
            assert time.monotonic() < deadline, self.ask("document.body.innerText")
            time.sleep(0.1)
        self.resize(width, self.ask("document.querySelector('[data-testid=stMain]').scrollHeight"))

    def resize(self, width: int, height: int) -> None:
        """Give the window a size."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def picture(self, path: Path) -> None:
        """Write what can be seen as a PNG."""
        path.write_bytes(b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Start Chromium with a new profile in a folder."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stderr
            listening = next(line for line in process.stderr if line.startswith("DevTools listening on "))
            browser = listening.split()[-1]
            with connect(browser, max_size=None, proxy=None) as control:
                control.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                targets = json.loads(control.recv(timeout=PATIENCE))["result"]["targetInfos"]
            [target] = [each["targetId"] for each in targets if each["type"] == "page"]
            address = f"{browser.partition('/devtools/')[0]}/devtools/page/{target}"
            with connect(address, max_size=None, proxy=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
