"""The tags of runs: this project's own, and the Dagster tags that it writes or reads."""

from collections.abc import Iterable, Mapping

import dagster as dg

# Not exported by `dagster`: the tags by which it tells whether an asset is younger than what it was made from.
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

# Not exported by `dagster`: needed to retry runs from their first step, and not to retry runs of `fleet run`.
from dagster._core.storage.tags import MAX_RETRIES_TAG, RETRY_STRATEGY_TAG

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
MAX_RETRIES = MAX_RETRIES_TAG
RETRY_STRATEGY = RETRY_STRATEGY_TAG

# Of no use to people: Dagster's pages hide tags with this prefix.
_HIDDEN = ".dagster/"
KEYS = f"{_HIDDEN}fleet_keys"  # digest of the partition keys that the run was made for
PROCESS = f"{_HIDDEN}fleet_process"  # which process executes the run, see `run_processes`
ABOUT = "fleet/about"  # what the run is over, in a few words
RESULT = "fleet/result"  # what came of it
BATCH = "fleet/batch"  # the batch of requests that asked for the run
BACKLOG_DIFF = "fleet/found"  # summary of the backlog diff by which a schedule launched the run

_LAST_EVENT = 2**62  # later than any event of a log


def of_run(tags: Mapping[str, str], name: str) -> str:
    """The value of `KEYS` or `PROCESS`, also of a run from before they were hidden; "" where there is none."""
    return tags.get(name) or tags.get(name.removeprefix(_HIDDEN).replace("_", "/"), "")


def newer_than_parents(code_version: str, parents: Iterable[str]) -> dict[str, str]:
    """Tags of a materialization that is made from its `parents` although their events come later in its run.

    Dagster looks for events of a parent after the one that the tag names, and finds none.
    """
    keys = [dg.AssetKey(parent) for parent in parents]
    pointers = {get_input_event_pointer_tag(key): str(_LAST_EVENT) for key in keys}
    return {CODE_VERSION_TAG: code_version, **{get_input_data_version_tag(key): "" for key in keys}, **pointers}
