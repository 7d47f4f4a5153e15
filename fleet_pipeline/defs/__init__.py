"""The Dagster layer: one module per concept, each thin over the packages that do the work.

`partitions`, `assets` (with `transcribe`, what the GPU op does), `io_managers`, `resources`,
`jobs`, `sensors`, `progress`, and `build`, which puts them together.
"""

import warnings

import dagster as dg

# Backfill policies are in beta and warn at every import; which release is used is pinned.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
