"""Models that the project provides. Any other model that vLLM can load works too.

`fleet-tiny` comes with the package. It is a demonstrator that writes English about the given task.
`random-tiny` is built at first use. Its weights are random, so it only exercises the mechanics.
"""
