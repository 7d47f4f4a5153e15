"""What is kept and where: stored tasks, Parquet tables, and the backlogs tasks come from.

Every location is an fsspec URL. Nothing here knows engines, scores, events or Dagster.
"""
