"""Engines drive dialogues on a model. They do not interpret the prompts or the answers.

`engine` defines the interface. `loop` drives many dialogues over one backend. `vllm` is the production
engine, `scripted` a deterministic one for tests. `gpu` reads the memory use of GPUs.
"""
