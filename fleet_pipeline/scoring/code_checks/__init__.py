"""Code checks: the code in a proposal is parsed, linted and validated, and never run.

    blocks      the code blocks of a Markdown text
    parsers     the faults of a block, one function per language
    kubernetes  manifests, validated against the published schemas
    policy      patterns that no proposal should contain, from `policy.toml`
    check       all code checks of one proposal

A proposal without code has no code checks at all: it neither passes nor fails.
"""
