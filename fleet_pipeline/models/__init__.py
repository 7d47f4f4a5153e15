"""Models by name: what a name resolves to, and what decides the output of the model behind it.

`fleet-tiny` comes with the package: a demonstrator that writes English about its task.
"""
