"""Engines: they drive deliberations on a model and know nothing of what is being discussed.

`engine` says what an engine is, `loop` drives many protocols over one backend, `vllm` is the
production backend, `scripted` a deterministic one for tests.
"""
