"""Engines drive dialogues on a model. They do not interpret the prompts or the answers.

`engine` defines the interface. `loop` drives many dialogues over one backend. `vllm` is the engine in this process,
configured with `options`; `loading` loads and frees models, and `chat_format` writes their chats. `openai` is the
engine for models on servers: `chat_api` says what is sent and what an answer means, `servers` which server gets it,
`prompt_checks` what is looked at before. `router` is the engine of several models. `sampling` and `pace` are common to all. `reward` rates answers. `certainty` says how sure it was. `gpu` reads the memory use of GPUs. There is no mock: the tests have a scripted engine of their own.
"""
