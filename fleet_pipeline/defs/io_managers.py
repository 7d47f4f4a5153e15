"""The Parquet I/O manager: one folder per table, one file per deliberation."""

from collections.abc import Iterable

import dagster as dg

from fleet_pipeline.defs.resources import StorageResource
from fleet_pipeline.instance.names import DELIBERATIONS, PROPOSALS, TRANSCRIPTS
from fleet_pipeline.services.score_councils import RankedCouncil, write_council
from fleet_pipeline.storage import schemas
from fleet_pipeline.storage.schemas import TableName
from fleet_pipeline.storage.tables import Transcripts

# The table that holds each asset.
_TABLES: dict[str, TableName] = {TRANSCRIPTS: "utterances", PROPOSALS: "proposals", DELIBERATIONS: "deliberations"}


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes ranked councils, each file atomically, and loads transcripts lazily.

    Both are streams, so that neither end holds a whole run in memory. The GPU op and the outcomes write their own
    files, one by one as they are ready.
    """

    storage: dg.ResourceDependency[StorageResource]

    def handle_output(self, context: dg.OutputContext, obj: Iterable[RankedCouncil]) -> None:
        """Write the tables `scores` and `proposals`."""
        store = self.storage.retrying_store()
        for council in obj:
            write_council(store, council)
        folder = store.full_path(table_of(context.asset_key))
        context.add_output_metadata({"folder": dg.MetadataValue.path(folder)})

    def load_input(self, context: dg.InputContext) -> Transcripts:
        return Transcripts(self.storage.retrying_store(), schemas.UTTERANCES, context.asset_partition_keys)


def table_of(key: dg.AssetKey) -> TableName:
    """The table that holds an asset."""
    return _TABLES[key.path[-1]]
