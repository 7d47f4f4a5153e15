"""Engines drive dialogues on a model. They do not interpret the prompts or the answers.

`engine` defines the interface. `loop` drives many dialogues over one backend. `vllm` is the engine, configured
with `options`. `loading` loads and frees models. `reward` rates answers. `certainty` says how sure it was. `gpu` reads the memory use of GPUs. There is no mock: the tests have a scripted engine of their own.
"""
