"""Asks a server of this machine."""

import socket
import urllib.error
import urllib.request

# A port that was only found free may be anybody's a moment later: a server that was stopped and started again could not
# come back, because a connection of another test had got its port. Linux gives no port to others while a socket is bound
# to it. Who names it may still listen there: the socket does not listen itself, and both have SO_REUSEADDR.
_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of this machine that stays the caller's until this process ends."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _reserved.append(reserved)
    port: int = reserved.getsockname()[1]
    return port


def ask(port: int, path: str) -> tuple[int, str]:
    """(status code, body) of a GET. Raises `OSError` if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
