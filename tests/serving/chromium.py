"""A headless Chromium, driven by the DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Chromium:
    """One browser with one page.

    Args:
        profile: an empty folder.

    Attributes:
        errors: of scripts, of the console and of the content-security policy, of all pages opened so far.

    """

    def __init__(self, profile: Path):
        command = [EXECUTABLE, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        address, end = profile / "DevToolsActivePort", time.monotonic() + 30
        while not address.exists() or len(address.read_text().split()) < 2:
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.05)
        port, path = address.read_text().split()

        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None)
        self._number, self._session, self._loaded = 0, None, False
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a method of the DevTools protocol."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        request = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(request | session))
        while (message := self._receive()).get("id") != self._number:
            pass
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self._socket.recv(timeout=30))
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, details: dict[str, Any]) -> None:
        self._loaded = self._loaded or event == "Page.loadEventFired"
        problem = (
            event == "Runtime.exceptionThrown"
            or (event == "Log.entryAdded" and details["entry"]["level"] == "error")
            or (event == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"))
            or (event == "Audits.issueAdded" and details["issue"]["code"] == "ContentSecurityPolicyIssue")
        )
        if problem:
            self.errors.append(json.dumps(details))

    def open(self, url: str) -> None:
        """Opens a page, and waits until it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Returns the value of JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, timeout_s: float = 15.0) -> Any:
        """Waits until the JavaScript's value is true, and returns it."""
        end = time.monotonic() + timeout_s
        while not (value := self.evaluate(expression)):
            seen = self.evaluate("document.body ? document.body.innerText : ''")
            assert time.monotonic() < end, f"never {expression}; the page says {seen!r}; errors {self.errors}"
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def close(self) -> None:
        self._socket.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)
