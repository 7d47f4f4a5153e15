"""Storage at any fsspec URL: stored tasks, Parquet tables, pending batches of requests, the outbox of events.

    store         one folder of whole files, on a local disk or an object store
    schemas       the tables, declared once; `tables` reads and writes their files
    transcripts   utterances and judgements as rows
    task_store    the task of each deliberation
    pending       batches of requests that have no run yet
    outbox        events that are ready to be published
    export        a table, or a part of one, in one file

Nothing here depends on engines, scores, events or Dagster.
"""
