"""The Dagster instance as this project uses it: home, partitions, run records, event log.

`home` opens the instance. `partitions` registers deliberations. `run_processes` finds runs whose process is gone.
`in_process` executes a run in this process. `event_log` reads outcomes in order. `names`, `tags` and `metadata_keys`
hold the names that definitions and readers must spell alike.

Not here: definitions (`defs`), and use cases (`services`). Only this package imports `dagster._core`; each import gives
its reason. `dagster._core` is not public API, so the Dagster release is pinned.
"""
