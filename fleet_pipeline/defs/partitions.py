"""The dynamic partitions `deliberations`: one key is one deliberation."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

deliberation_partitions = dg.DynamicPartitionsDefinition(name="deliberations")
NAME = "deliberations"


def register(instance: dg.DagsterInstance, keys: Sequence[str]) -> dict[str, str]:
    """Register `keys` as one contiguous range, in this order; returns the run tags that select it.

    A run covers one key or one range, contiguous in the order in which keys were added. Keys that
    stand elsewhere are taken out and added again at the end; what Dagster knows of them stays.
    """
    known = instance.get_dynamic_partitions(NAME)
    places = {key: place for place, key in enumerate(known)}
    start = places.get(keys[0])
    in_place = start is not None and list(known[start : start + len(keys)]) == list(keys)
    if not in_place:
        for key in keys:
            if key in places:
                instance.delete_dynamic_partition(NAME, key)
        instance.add_dynamic_partitions(NAME, list(keys))
    return {
        "dagster/asset_partition_range_start": keys[0],
        "dagster/asset_partition_range_end": keys[-1],
    }
