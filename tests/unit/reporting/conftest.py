"""A real browser for tests of pages: headless Chromium, driven through chromedriver's W3C WebDriver protocol.

The protocol is JSON over HTTP to this machine, and the tests need eight of its commands: no package is needed for that.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1",
    # WebGL 2 without a graphics card.
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, address: str, binary: str) -> None:
        options = {"args": ARGUMENTS, "binary": binary}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._address = address
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._address = f"{address}/session/{session['sessionId']}"

    def _call(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        with urlopen(Request(self._address + path, body, {"Content-Type": "application/json"}, method=method), timeout=280) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Loads a page from disk in a window of that size."""
        self.logs("browser"), self.logs("performance")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", media="", features=[scheme])
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What JavaScript returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, *arguments: Any, seconds: float = 200) -> None:
        """Until a JavaScript expression is true."""
        script = """const [ms, ...rest] = arguments, done = rest.pop(), end = performance.now() + ms;
        const look = () => { if ((function () { return %s; }).apply(null, rest)) done(true);
          else if (performance.now() > end) done(false); else setTimeout(look, 50); };
        look();"""
        self._call("POST", "/timeouts", {"script": int(1000 * seconds) + 10_000})
        arguments_ = [int(1000 * seconds), *arguments]
        assert self._call("POST", "/execute/async", {"script": script % condition, "args": arguments_}), f"never true: {condition}"

    def picture(self, selector: str = "") -> bytes:
        """PNG of the window, or of one element."""
        if not selector:
            return base64.b64decode(self._call("GET", "/screenshot"))
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return base64.b64decode(self._call("GET", f"/element/{next(iter(found.values()))}/screenshot"))

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        page = {"width": 21.0, "height": 29.7}
        return base64.b64decode(self._call("POST", "/print", {"page": page, "background": True}))

    def logs(self, kind: str) -> list[dict[str, Any]]:
        """Messages since the last call: of the console (`browser`) or of the network and more (`performance`)."""
        return self._call("POST", "/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """Addresses of other things than what the page holds itself that were asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert asked, "the browser does not tell of requests"
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Chrome's own protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        """Ends the browser."""
        self._call("DELETE", "")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    binary = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if not driver or not binary:
        pytest.skip("needs chromium (or google-chrome) and chromedriver on the PATH")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = next(found[1] for line in process.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
        window = Browser(f"http://127.0.0.1:{port}", binary)
        yield window
        window.close()
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stdout:
            process.stdout.close()
