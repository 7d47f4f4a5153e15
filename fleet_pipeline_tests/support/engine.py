"""The engine that tests share."""

# Its context: room for ordinary prompts, small enough to overrun on purpose.
CONTEXT = 4_096
