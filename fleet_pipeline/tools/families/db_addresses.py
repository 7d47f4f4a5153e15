"""Addresses of databases, which hold passwords: no driver's error may tell one, or a part of it."""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_SCHEMES = {
    "redis": ("redis", "rediss", "unix"),
    "neo4j": tuple(f"{name}{way}" for name in ("neo4j", "bolt") for way in ("", "+s", "+ssc")),
}


def is_address(kind: str, url: str) -> bool:
    """Whether all read it alike. Libraries told, as a port that is none, the part of a password before its # or /; libpq ends a password
    at the first @, and others at the last one.
    """
    before_path = re.split(r"[/?#]", url.partition("://")[2])[0]
    if "://" in url and not url.count("@") == before_path.count("@") <= 1:
        return False
    try:
        if kind == "postgresql":  # in libpq's own form as well, and with several hosts
            from psycopg.conninfo import conninfo_to_dict

            ports = str(conninfo_to_dict(url).get("port") or "")
            return all(port.isdecimal() for port in ports.split(",") if port)
        parts = urlsplit(url)
        return parts.scheme in _SCHEMES[kind] and parts.port != 0
    except Exception:  # noqa: BLE001 - a driver's, whose text holds the address
        return False


def user_apart(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address without its user, and the user with the password, as Neo4j's driver takes them."""
    parts = urlsplit(url)
    user = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), user


def without_password(kind: str, url: str, error: object) -> str:
    """An error of a driver, without the address and its password. Where the password stands in it, nothing of it is told: a mask in a
    word, such as in the name of the database, would tell it."""
    text = str(error).replace(url, "***").strip()
    if any(secret in text for secret in _passwords(kind, url)):
        return f"{kind}: failed; why is not told, because that may hold the password"
    return f"{kind}: {text}"[:2_000]


def _passwords(kind: str, url: str) -> list[str]:
    if kind == "postgresql":
        from psycopg.conninfo import conninfo_to_dict

        found = [str(value) for name, value in conninfo_to_dict(url).items() if "password" in name]
    else:
        parts = urlsplit(url)
        found = [value for name, value in parse_qsl(parts.query) if "password" in name]
        found += [parts.password or "", unquote(parts.password or "")]
    return [one for one in found if one]
