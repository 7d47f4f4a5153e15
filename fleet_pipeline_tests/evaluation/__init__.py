"""Tests of `fleet_pipeline.evaluation`."""
