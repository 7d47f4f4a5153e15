"""Seeds. One seed for all agents would make them one agent: each utterance derives its own."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^48) that depends on every part and is the same on every machine.

    48 bits, so that the number survives JSON readers that hold integers as doubles.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
