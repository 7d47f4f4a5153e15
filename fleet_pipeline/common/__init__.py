"""Code that all packages share: errors, strict JSON, safe text, atomic files, logs.

It imports no other package of this project, and no Dagster, vLLM or NATS.
"""
