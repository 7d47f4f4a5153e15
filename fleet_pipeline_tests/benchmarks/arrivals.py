"""When the deliberations of a run ended, and when each outcome stood in Dagster's event log: figures and a plot."""

import os
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd

from fleet_pipeline.instance.names import OUTCOMES


def arrivals(home: Path, storage: Path) -> pd.DataFrame:
    """Of each deliberation the seconds from the first one's start to its own end (`finished`) and to its outcome's event
    (`announced`)."""
    outcomes = pd.read_parquet(storage / "deliberations").set_index("deliberation_id")
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        announced = logged(instance, list(outcomes.index))
    first = outcomes["started_at"].min().timestamp()
    finished = outcomes["finished_at"].map(lambda time: time.timestamp())
    return pd.DataFrame({"finished": finished - first, "announced": announced - first})


def logged(instance: dg.DagsterInstance, keys: list[str]) -> pd.Series:
    """When the first outcome of each deliberation stood in the event log, in seconds since the epoch."""
    limit = 10 * len(keys) + 100
    records = [  # the newest first
        *instance.fetch_materializations(OUTCOMES, limit=limit).records,
        *instance.fetch_observations(OUTCOMES, limit=limit).records,
    ]
    return pd.Series({record.partition_key: record.timestamp for record in records}).reindex(keys)


def draw(times: pd.DataFrame, file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    count = np.arange(1, len(times) + 1)
    for name, colour in (("finished", "#1f6feb"), ("announced", "#d9480f")):
        axes.step(np.sort(times[name]), count, where="post", label=name, color=colour)
    axes.set(
        xlabel="seconds since the first deliberation began", ylabel="deliberations", ylim=(0, None), xlim=(0, None)
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
