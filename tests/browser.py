"""A headless Chromium for tests: the DevTools protocol over a pipe, and nothing else."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_TIMEOUT = 60.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine; `make browser` installs Debian's"
)


class Browser:
    """One running Chromium with a profile of its own."""

    def __init__(self, profile: str) -> None:
        assert CHROMIUM is not None
        # Chromium reads commands from descriptor 3 and answers on 4.
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (theirs_in, theirs_out)]
        os.close(theirs_in)
        os.close(theirs_out)
        quiet = os.open(os.devnull, os.O_RDWR)
        self._process = os.posix_spawn(
            CHROMIUM,
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs[0], 3),
                (os.POSIX_SPAWN_DUP2, theirs[1], 4),
                (os.POSIX_SPAWN_DUP2, quiet, 1),
                (os.POSIX_SPAWN_DUP2, quiet, 2),
            ],
            setpgroup=0,
        )
        for end in (*theirs, quiet):
            os.close(end)
        self._rest = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait(self, event: str, session: str) -> None:
        """Wait for an event that may have come already."""
        while not any(
            e.get("method") == event and e.get("sessionId") == session for e in self.events
        ):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        limit = time.monotonic() + _TIMEOUT
        while b"\0" not in self._rest:
            left = limit - time.monotonic()
            assert left > 0, "chromium does not answer"
            if select.select([self._in], [], [], left)[0]:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, "chromium is gone"
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the browser and all its processes."""
        os.close(self._out)
        os.close(self._in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)


class Page:
    """One open page, and everything it complained about or asked for."""

    def __init__(
        self, browser: Browser, path: Path, *, width: int = 1280, dark: bool = False
    ) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str = attached["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.url = path.resolve().as_uri()
        self.call("Page.navigate", url=self.url)
        browser.wait("Page.loadEventFired", self._session)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to the page."""
        return self._browser.call(method, self._session, **params)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page and return its value."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        self.run("0")  # whatever was on its way has arrived
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] in methods
        ]

    def complaints(self) -> list[str]:
        """Return errors, warnings, and everything that was written to the console."""
        return [
            json.dumps(params)
            for params in self._events(
                "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"
            )
        ]

    def requests(self) -> list[str]:
        """Return what the page asked for and its own policy let through, itself left out."""
        failed = self._events("Network.loadingFailed")
        blocked = {event["requestId"] for event in failed if event.get("blockedReason") == "csp"}
        sent = self._events("Network.requestWillBeSent")
        urls = [event["request"]["url"] for event in sent if event["requestId"] not in blocked]
        return [url for url in urls if url != self.url]

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """Print the page."""
        printed = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(printed["data"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser; it and its profile are gone afterwards."""
    profile = tempfile.mkdtemp(prefix="lipaudit-browser-")
    running = Browser(profile)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(profile, ignore_errors=True)
