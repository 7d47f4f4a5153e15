"""Rendering for people: rows in, pages out.

    terminal     tables, a deliberation and progress, for a terminal
    html         the report of a run, one file; `plots` draws its plots
    discussion   a council's texts, as Markdown for the UI; `pictures` draws its pictures

Rendering only. `services.run_report` and `services.outcome_page` read the rows.
"""
