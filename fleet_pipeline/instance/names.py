"""Names of definitions, for the code that defines them and the code that looks them up."""

import dagster as dg

# Assets, in their order.
TRANSCRIPTS = "transcripts"
PROPOSALS = "proposals"
DELIBERATIONS = "deliberations"
OUTCOMES = dg.AssetKey(DELIBERATIONS)  # its events are the outcomes of deliberations

DELIBERATE_JOB = "deliberate"
COMPLETIONS_SENSOR = "completions"

# A pool with one slot per engine that fits the machine: the GPU ops of runs take turns, and their scoring overlaps.
GPU_POOL = "gpu"

# The code location that workspace.yaml names.
CODE_LOCATION = "fleet_pipeline"
CODE_MODULE = "fleet_pipeline.definitions"
REPOSITORY = "__repository__"  # Dagster's name for the only repository of a code location
