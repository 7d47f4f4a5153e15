"""The Dagster instance as this project uses it: its home, partitions, run records, event log.

`home` opens it, `partitions` is the registry of deliberations, `run_processes` tells living runs from dead ones,
`in_process` executes a run here, `event_log` reads outcomes in order. `names`, `tags` and `metadata_keys` hold what
definitions and readers must spell alike.

Not here: definitions (`defs`), and what is done with the instance (`services`). This is the only room that imports
`dagster._core`; each such import says why. None of it is public API, so the Dagster release is pinned.
"""
