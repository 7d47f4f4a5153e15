"""What all rooms stand on: errors, strict JSON, safe text, whole files, logs.

It imports no other room, and no Dagster, vLLM or NATS.
"""
