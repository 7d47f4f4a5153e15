"""The Dagster definitions, and nothing else. Each module holds one kind of them, thin over `services`.

    assets          the three assets, in order; `score_ops` holds the ops of the second asset
    asset_checks    council checks as asset checks: look at them before you trust a run's winners
    io_managers     assets as Parquet, one file per deliberation
    resources       external dependencies of assets and sensors, every field described
    jobs            jobs that people launch; `schedules` launch by the clock, `sensors` on outcomes and requests
    loggers         Dagster's log as JSON
    build           assembles all definitions

Not here: the work itself (`services`), and the Dagster instance (`instance`).
"""

import warnings

import dagster as dg

# Backfill policies are in beta and warn at every import. The Dagster release is pinned.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
