"""Tests. They mirror the package, and run the real parts: vLLM on CPU, nats-server, Dagster."""
