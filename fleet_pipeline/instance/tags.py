"""The tags of runs: ours, and those of Dagster's that we write or read."""

# Not exported by `dagster`: retries are told to start a run from its beginning, and `fleet run` is not retried.
from dagster._core.storage.tags import MAX_RETRIES_TAG, RETRY_STRATEGY_TAG

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
MAX_RETRIES = MAX_RETRIES_TAG
RETRY_STRATEGY = RETRY_STRATEGY_TAG

KEYS = "fleet/keys"  # digest of the partition keys that the run was made for
PROCESS = "fleet/process"  # which process executes the run, see `run_processes`
BATCH = "fleet/batch"  # the batch of requests that asked for the run
BACKLOG_DIFF = "fleet/found"  # what a scheduled look at a backlog found
