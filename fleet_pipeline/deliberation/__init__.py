"""The domain: tasks, councils, prompts, the protocol and what was said.

Pure Python and pydantic. Nothing here does I/O, reads a clock, or knows Dagster, vLLM, NATS or
pandas, so every rule of a council can be tested without an engine. Every other package may import
this one; it imports none of them.
"""
