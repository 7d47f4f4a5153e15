"""What people look at: rows in, pages out.

    terminal     tables, a deliberation and progress, for a terminal
    html         the report of a run, one file; `plots` are its plots
    discussion   what a council said, as Markdown for the UI; `pictures` are its pictures

Rendering only. Not here: reading what is shown (`services.run_report`, `services.outcome_page`).
"""
