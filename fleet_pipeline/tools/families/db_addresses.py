"""Addresses of databases, which hold passwords: no driver's error may tell one, or a part of it."""

from urllib.parse import parse_qsl, unquote, urlsplit

_SHORT = 4  # letters: what is shorter stands in other words as well, and a mask there would tell it


def is_address(kind: str, url: str) -> bool:
    """Whether all read it alike. Libraries told, as a port that is none, the part of a password before its # or /."""
    try:
        if kind == "postgresql":
            from psycopg import ProgrammingError
            from psycopg.conninfo import conninfo_to_dict

            try:
                conninfo_to_dict(url)
            except ProgrammingError:
                return False
            if "://" not in url:
                return True
        parts = urlsplit(url)
        # libpq ends the password at the first @, others at the last one.
        return (parts.port is None or parts.port > 0) and url.count("@") == parts.netloc.count("@") <= 1
    except ValueError:
        return False


def _passwords(url: str) -> list[str]:
    if "://" not in url:  # libpq's own form
        from psycopg.conninfo import conninfo_to_dict

        return [str(value) for name, value in conninfo_to_dict(url).items() if value and "password" in name]
    parts = urlsplit(url)
    found = [value for name, value in parse_qsl(parts.query) if "password" in name]
    return [*found, parts.password, unquote(parts.password)] if parts.password else found


def without_password(url: str, text: str) -> str:
    """An error of a driver, without the address and its password."""
    secrets = _passwords(url)
    if any(len(one) < _SHORT for one in secrets):
        return text.partition(":")[0] + ": failed; why is not told, because the password is too short to be masked"
    for secret in (url, *secrets):
        text = text.replace(secret, "***")
    return text.strip()[:2_000]
