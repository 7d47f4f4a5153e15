"""The Dagster definitions, and nothing else: each module holds one kind of them, thin over `services`.

    assets          the three assets, in order; `score_ops` are the ops that the second is made of
    asset_checks    what people should look at before they trust a run's winners
    io_managers     assets as Parquet, one file per deliberation
    resources       what assets and sensors need from outside, every field described
    jobs            what can be launched; `schedules` by the clock, `sensors` by what comes
    loggers         Dagster's log as JSON
    build           puts them together

Not here: what a definition does (`services`), and the instance it does it on (`instance`).
"""

import warnings

import dagster as dg

# Backfill policies are in beta and warn at every import; which release is used is pinned.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
