"""Seeds. Agents that share a seed would act as one agent, so each utterance derives its own."""

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^48) that depends on every part and is the same on every machine.

    It has 48 bits, so JSON readers that store integers as doubles keep it exact.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
