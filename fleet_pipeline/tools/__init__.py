"""Tools that agents and people call: operations on a workspace, the sandbox around what they execute, and their audit.

Here belong the operations of each family, workspaces, and all that confines a call. Not here: who may call what in a
council, and where the audit's table is kept (`services`, `storage`).
"""
