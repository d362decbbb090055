"""The server's page in a real browser: Chromium, headless, with its fake microphone, by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import served
from websockets.sync.client import connect

import cgru

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
DEMO = Path(cgru.__file__).parent / "demo" / "co2_gru.pt"


class Tab:
    """A browser's page, by its DevTools."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(60))
            if told.get("id") == self._number:
                assert "error" not in told, told
                found: dict[str, Any] = told["result"]
                return found

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{expression} never became true; the page says {self.value('cgru.error')!r}")


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--window-size=1000,700",
             "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={tmp_path}"]  # fmt: skip
    process = subprocess.Popen([CHROMIUM, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told = tmp_path / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (told.exists() and told.read_text().count("\n")):
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < end, "Chromium opened no port"
            time.sleep(0.05)
        port = told.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            page = next(one for one in json.load(answer) if one["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], compression=None, max_size=None, open_timeout=30) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_the_page_streams_the_microphone_and_draws_what_comes_back(tab: Tab) -> None:
    net = cgru.load(DEMO)
    with served(net, capacity=3, token="s3cret", name="co2_gru") as running:
        tab.call("Page.navigate", url=f"http://127.0.0.1:{running.port}/#token=s3cret")
        tab.until("document.getElementById('go') && !document.getElementById('go').disabled")
        assert "8 features in, 26 out" in tab.value("document.getElementById('about').textContent")
        tab.value("document.getElementById('go').click()")
        assert tab.until("cgru.steps > 250 && cgru.steps") > 250
        # What the page sent and what it got, by the network itself.
        inputs = np.array(tab.value("cgru.inputs"), np.float32)
        outputs = np.array(tab.value("cgru.outputs"), np.float32)
        assert np.ptp(inputs) > 0.1, "the fake microphone beeps"
        assert np.array_equal(outputs, net.stream().feed(inputs[: len(outputs)]))
        pixels = "document.getElementById('{}').getContext('2d').getImageData(0, 0, 900, 160).data.buffer"
        colours = f"new Set(new Uint32Array({pixels})).size"
        for canvas in ("in", "out"):
            assert tab.value(colours.format(canvas)) > 20, f"{canvas} is empty"
        if where := os.environ.get("CGRU_SCREENSHOT"):
            Path(where).write_bytes(base64.b64decode(tab.call("Page.captureScreenshot")["data"]))
        tab.value("document.getElementById('go').click()")  # Stop
        running.until(lambda: len(running.service.pool) == 0)
        assert tab.value("cgru.error") == ""


def test_the_page_says_what_is_wrong(tab: Tab) -> None:
    net = cgru.load(DEMO)
    with served(net, token="s3cret") as running:
        tab.call("Page.navigate", url=f"http://127.0.0.1:{running.port}/#token=wrong")
        said = tab.until("document.getElementById('said') && document.getElementById('said').textContent")
        assert "Authorization: Bearer" in said
