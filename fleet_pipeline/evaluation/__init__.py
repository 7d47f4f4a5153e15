"""Do councils solve more than one agent, for the same tokens? Small repositories with hidden tests, and what came of them.

Here belong the repositories (`repositories/*.toml`), the arms that are compared, the verdict by hidden tests, and the figures. Not here:
how a council is held, which is that of every run (`services`).
"""
