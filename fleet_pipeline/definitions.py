"""What Dagster loads. The table of contents is `fleet_pipeline.defs.build`."""

from fleet_pipeline.defs.build import build_definitions

defs = build_definitions()
