"""A language model's server on this machine that can be slow, fail, limit, babble or hang up, and counts."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

FAULTS = ("slow", "500", "503", "429", "broken", "not an object", "torn", "hang up")
SLOW = 0.6  # seconds; clients of these tests wait for 0.3
TIMEOUT = 0.3


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class FakeEndpoint(ThreadingHTTPServer):
    """Answers what ``answer`` makes of the messages.

    Attributes:
        fault: name of a fault by the conversation's last text and how often just this was asked before; or None.
        asked, answered: how often a conversation came, and how often it was answered well, by its JSON.
        hold: good answers after which requests wait and are dropped at the end; None for never.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[list[dict[str, Any]]], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answer = answer
        self.fault: Callable[[str, int], str | None] = lambda text, before: None
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.hold: int | None = None
        self.released = threading.Event()
        self.delay = 0.0
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def texts(self) -> Counter[str]:
        """How often each last text of a conversation was answered."""
        counted: Counter[str] = Counter()
        for conversation, count in self.answered.items():
            counted[text_of(json.loads(conversation)[-1])] += count
        return counted


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(FakeEndpoint, self.server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._reply(server, body)
        finally:
            with server.lock:
                server.at_once -= 1

    def _reply(self, server: FakeEndpoint, body: dict[str, Any]) -> None:
        key = json.dumps(body["messages"])
        with server.lock:
            server.bodies.append(body)
            fault = server.fault(text_of(body["messages"][-1]), server.asked[key])
            server.asked[key] += 1
            held = fault is None and server.hold is not None and server.answered.total() >= server.hold
            if fault is None and not held:
                server.answered[key] += 1
        if held:
            server.released.wait(60)
            self.close_connection = True
            return
        time.sleep(SLOW if fault == "slow" else server.delay)
        if fault == "hang up":
            self.close_connection = True
            return
        self._send(fault, body, server)

    def _send(self, fault: str | None, body: dict[str, Any], server: FakeEndpoint) -> None:
        choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": server.answer(body["messages"])}}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        good = {"model": "fake-1", "system_fingerprint": "fp", "choices": [choice], "usage": usage}
        content = {"broken": b'{"choices": [', "not an object": b"[]"}.get(fault or "", json.dumps(good).encode())
        try:
            self.send_response(int(fault) if fault in ("500", "503", "429", "400", "401") else 200)
            self.send_header("Content-Length", str(len(content) + 99 * (fault == "torn")))
            if fault == "429":
                self.send_header("Retry-After", "0.05")
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            assert fault == "slow"  # only a client that did not want to wait may have gone

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(answer: Callable[[list[dict[str, Any]]], str]) -> Iterator[FakeEndpoint]:
    """A server in a thread, stopped at the end."""
    with FakeEndpoint(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def settings(server: FakeEndpoint) -> dict[str, Any]:
    """Of an endpoint that is this server, for impatient tests."""
    return {"url": server.url, "model": "fake", "attempts": 3, "timeout": TIMEOUT, "pause": 0.01}
