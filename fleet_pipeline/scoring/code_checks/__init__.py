"""Checks that really check: the code in a proposal is parsed, linted, validated, and never run.

    blocks      the code blocks of a Markdown text
    parsers     one function per language: what is wrong with this block?
    kubernetes  manifests against the published schemas
    policy      patterns that no proposal should hold, from `policy.toml`
    check       all of it, for one proposal

A proposal without code has no checks at all, which is neither passed nor failed.
"""
