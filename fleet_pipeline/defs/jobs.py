"""Jobs. `deliberate` runs every asset over one key or one range of keys."""

from __future__ import annotations

import dagster as dg

from fleet_pipeline.defs.assets import deliberations, proposals, transcripts

deliberate_job = dg.define_asset_job(
    "deliberate",
    selection=dg.AssetSelection.assets(transcripts, proposals, deliberations),
    description="Transcribe, score and judge deliberations: one run, one engine start, many partitions.",
)
