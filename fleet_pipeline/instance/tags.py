"""The tags of runs: this project's own, and the Dagster tags that it writes or reads."""

# Not exported by `dagster`: needed to retry runs from their first step, and not to retry runs of `fleet run`.
from dagster._core.storage.tags import MAX_RETRIES_TAG, RETRY_STRATEGY_TAG

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
MAX_RETRIES = MAX_RETRIES_TAG
RETRY_STRATEGY = RETRY_STRATEGY_TAG

KEYS = "fleet/keys"  # digest of the partition keys that the run was made for
PROCESS = "fleet/process"  # which process executes the run, see `run_processes`
BATCH = "fleet/batch"  # the batch of requests that asked for the run
BACKLOG_DIFF = "fleet/found"  # summary of the backlog diff by which a schedule launched the run
