"""A TCP proxy that fails on purpose: it cuts after some bytes, answers by itself, changes what comes back."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Proxy:
    """Forwards 127.0.0.1:``port`` to ``upstream``; the fields may be changed while it runs."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.up_bytes: float = float("inf")
        """Bytes that may still go to the server before every connection is cut."""
        self.down_bytes: float = float("inf")
        """The same for bytes that come back."""
        self.answer: tuple[int, str] | None = None
        """Status and body that every request gets instead; a body that is not XML is sent as HTML."""
        self.change: Callable[[bytes], bytes] = lambda data: data
        """What happens to the bytes that come back."""
        self.passed = 0
        """Bytes that went to the server so far."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for end in [self._listener, *self._sockets]:
            _close(end)

    def mend(self) -> None:
        """Behave again."""
        self.up_bytes = self.down_bytes = float("inf")
        self.answer = None

    def _accept(self) -> None:
        host, _, port = self.upstream.removeprefix("http://").partition(":")
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((host, int(port)))
                self._sockets += [near, far]
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                if self.answer is not None:
                    status, body = self.answer
                    kind = "application/xml" if body.startswith("<?xml") else "text/html"
                    head = f"HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nConnection: close\r\n"
                    near.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                    break
                data, self.up_bytes = data[: int(min(len(data), self.up_bytes))], self.up_bytes - len(data)
                far.sendall(data)
                self.passed += len(data)
                if self.up_bytes <= 0:
                    break
        _close(near)
        _close(far)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(1 << 16):
                data = self.change(data)
                data, self.down_bytes = (
                    data[: int(min(len(data), self.down_bytes))],
                    self.down_bytes - len(data),
                )
                near.sendall(data)
                if self.down_bytes <= 0:
                    break
        _close(near)
        _close(far)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
