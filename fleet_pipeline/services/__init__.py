"""The use cases of this pipeline, for every caller: CLI, API and Dagster.

    fleet           the composition root: builds stores, inbox and roles from the settings; `engines` starts vLLM
    transcribe      the work of the GPU op; `progress` counts it
    conclude        scores, ranks and announces each deliberation while others are under way; `score_councils` does the scoring
    outcomes        writes the outcome row of one deliberation; `outcome_page` is its metadata in the UI
    publishing      publishes the events of finished deliberations
    intake          turns requests into runs; `inbox` reads requests from files, `backlog_diff` from a backlog
    status          the status of deliberations and requests
    retention       prunes old results
    plan            what a run would do, without starting anything
    run_report      the HTML report of a run
    metrics         gauges for Prometheus
    doctor          diagnoses this machine's setup
    event_schemas   the JSON Schemas of all events and requests
    disk_buffer     passes scores between ops on disk instead of in memory

Not here: Dagster definitions (`defs`), which call these; commands (`cli`); servers and clients (`api`).
"""
