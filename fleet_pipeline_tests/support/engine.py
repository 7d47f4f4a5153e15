"""Options of the engine that tests share."""

# Context length in tokens: room for ordinary prompts, and small enough to overrun on purpose.
CONTEXT = 4_096
