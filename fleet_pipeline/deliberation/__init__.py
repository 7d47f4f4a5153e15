"""The domain: tasks, councils, prompts, the protocol and transcripts.

Pure Python and pydantic. Nothing here does I/O, reads a clock, or imports Dagster, vLLM, NATS or
pandas, so every rule of a council can be tested without an engine. It imports only `common`.
Every package above it may import it.
"""
