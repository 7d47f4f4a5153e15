"""Metadata entries that are written in one place and read in another.

They are labels in the UI as well, and part of what is stored: a new wording loses what older runs wrote.
"""

STORAGE = "storage"  # of an outcome: the storage that its run wrote to

# Of a materialization of `transcripts`: what the run's engine did.
TOKENS_PER_SECOND = "run: completion tokens per second"
CACHE_HIT_RATE = "run: prefix cache hit rate"
ENGINE_START_SECONDS = "run: engine start (s)"
