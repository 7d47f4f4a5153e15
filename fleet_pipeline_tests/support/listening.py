"""A server of a test's own, for what no real one does."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of one's own, each connection in a thread. Its port."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[own.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as own:
        threading.Thread(target=accept, daemon=True).start()
        yield own.getsockname()[1]
        own.shutdown(socket.SHUT_RDWR)
