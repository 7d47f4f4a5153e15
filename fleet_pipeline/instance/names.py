"""Names that definitions are made under and others find them by."""

import dagster as dg

# Assets, in their order.
TRANSCRIPTS = "transcripts"
PROPOSALS = "proposals"
DELIBERATIONS = "deliberations"
OUTCOMES = dg.AssetKey(DELIBERATIONS)  # its events are the outcomes of deliberations

DELIBERATE_JOB = "deliberate"
COMPLETIONS_SENSOR = "completions"

# One place for each engine that fits the machine: runs wait for one another here, and score beside each other.
GPU_POOL = "gpu"

# The code location that workspace.yaml names.
CODE_LOCATION = "fleet_pipeline"
CODE_MODULE = "fleet_pipeline.definitions"
REPOSITORY = "__repository__"  # as Dagster calls a location's only one
