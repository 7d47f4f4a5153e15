"""The use cases: what this pipeline does, whoever asks for it.

    fleet           the composition root: settings in, parts out; `engines` starts vLLM
    transcribe      what the GPU op does; `progress` is how far it is
    outcomes        the row of one deliberation; `outcome_page` is what the UI shows of it
    publishing      events of finished deliberations
    intake          from requests to runs; `inbox` from files, `backlog_diff` from what is new in a backlog
    status          where a deliberation stands
    retention       removing what is old
    run_report      the HTML report of a run
    metrics         figures for Prometheus
    doctor          whether this machine can do what it is set up for
    event_schemas   the JSON Schemas of all events and requests
    disk_buffer     figures that pass between ops without standing in memory

Not here: Dagster definitions (`defs`), which call these; commands (`cli`); servers and clients (`api`).
"""
