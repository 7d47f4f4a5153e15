"""What is kept and where, at any fsspec URL: stored tasks, Parquet tables, requests that wait, events that are ready.

    store         files of one folder, written whole, on a disk or an object store
    schemas       the tables, declared once; `tables` reads and writes their files
    transcripts   what was said and judged, as rows
    task_store    what each deliberation is about
    pending       requests that have been taken and have no run yet
    outbox        events that are ready to be sent
    export        one file out of many

Nothing here knows engines, scores, events or Dagster.
"""
