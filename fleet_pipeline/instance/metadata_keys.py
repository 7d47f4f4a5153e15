"""Keys of metadata entries that one module writes and another reads.

They are also labels in the UI and part of the stored data: with a new wording the entries of older runs are lost.
"""

STORAGE = "storage"  # of an outcome: the URL of the storage that its run wrote to

# Of an observation of `transcripts`, one a run: figures of its engine.
TOKENS_PER_SECOND = "run: completion tokens per second"
CACHE_HIT_RATE = "run: prefix cache hit rate"
ENGINE_START_SECONDS = "run: engine start (s)"
