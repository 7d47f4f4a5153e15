"""Jobs. `deliberate` runs every asset over one key or one range of keys, `rescore` those that need no engine;
`prune` removes what is old.
"""

import dagster as dg

from fleet_pipeline.defs.assets import deliberations, proposals, transcripts
from fleet_pipeline.defs.processes import RunProcess
from fleet_pipeline.defs.resources import CouncilResource, StorageResource
from fleet_pipeline.defs.retention import find_old, remove
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.events.options import NatsOptions, RequestOptions
from fleet_pipeline.settings import RetentionSettings
from fleet_pipeline.storage.store import Store

deliberate_job = dg.define_asset_job(
    "deliberate",
    selection=dg.AssetSelection.assets(transcripts, proposals, deliberations),
    description="Transcribe, score and judge deliberations: one run, one engine start, many partitions.",
)

rescore_job = dg.define_asset_job(
    "rescore",
    selection=dg.AssetSelection.assets(proposals, deliberations),
    description="Score and judge again from what was said: no engine, no tokens.",
)


@dg.op(description="Removes results, specs, partitions and run records that are older than the settings say.")
def remove_old(
    context: dg.OpExecutionContext,
    storage: StorageResource,
    council: CouncilResource,
    retention: dg.ResourceParam[RetentionSettings],
    request_options: dg.ResourceParam[RequestOptions],
    nats: dg.ResourceParam[NatsOptions],
    process: RunProcess,
) -> None:
    store, inbox, roles = storage.patient_store(), Store(request_options.inbox_url(storage.url)), council.roles()
    try:
        old = find_old(context.instance, store, inbox, roles, retention, nats)
    except InvalidInput as error:
        raise dg.Failure(str(error)) from error
    context.log.info(f"{len(old.deliberations)} deliberations and {len(old.runs)} runs are old")
    removed = remove(context.instance, store, inbox, roles, old, lambda count: context.log.info(f"{count} removed"))
    context.add_output_metadata(
        {
            "deliberations": len(removed.deliberations),
            "runs": removed.runs,
            "other files": removed.files,
            "old and unfinished, left alone": len(old.unfinished) + len(removed.spared),
        }
    )


@dg.job(name="prune", description="Removes what is older, or more, than [retention] says. `fleet prune` shows what.")
def prune_job() -> None:
    remove_old()
