"""Fleet Pipeline: councils of LLM agents deliberate over a backlog, on Dagster and vLLM."""
