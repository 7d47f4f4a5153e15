"""Models the project can name, beside any that vLLM can load.

`fleet-tiny` comes with the package: a demonstrator that speaks English about the task it is given.
`random-tiny` is built on the spot: random weights, for mechanics alone.
"""
