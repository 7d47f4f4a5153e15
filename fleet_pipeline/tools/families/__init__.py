"""The operations, one family a module. What they share is in `fleet_pipeline.tools.operation`."""
