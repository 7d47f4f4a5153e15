"""The definitions that Dagster loads. `fleet_pipeline.defs.build` lists them."""

from fleet_pipeline.defs.build import build_definitions

defs = build_definitions()
