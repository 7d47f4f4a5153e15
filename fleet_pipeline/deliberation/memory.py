"""A dialogue that remembers: what was answered before is not asked again.

The protocol knows nothing of it. An engine sees only the requests that nobody has answered yet, and hands only the actions that
nobody has done.
"""

from typing import Any, Protocol

from fleet_pipeline.deliberation.exchange import Action, Completion, Dialogue, Done, Exchange, Request, Result


class Memory(Protocol):
    """What has been answered in one dialogue, by this process or an earlier one."""

    def recall(self, asked: Request | Action) -> Completion | Done | None:
        """The answer to an equal request, or what came of an equal action, or None."""
        ...

    def note(self, asked: Request | Action, answer: Completion | Done) -> None:
        """Keep what an engine has just answered, or hands have done."""
        ...


def remembered(dialogue: Dialogue[Result], memory: Memory) -> Dialogue[Result]:
    """`dialogue`, whose requests are answered from `memory` where it can, and whose answers it notes."""
    try:
        exchanges = next(dialogue)
        while True:
            exchanges = dialogue.send((yield [_remembered(exchange, memory) for exchange in exchanges]))
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        dialogue.close()


def _remembered(exchange: Exchange[Any], memory: Memory) -> Exchange[Any]:
    try:
        asked = next(exchange)
        while True:
            answer = memory.recall(asked)
            if answer is None:
                answer = yield asked
                memory.note(asked, answer)
            asked = exchange.send(answer)
    except StopIteration as stop:
        return stop.value
    finally:
        exchange.close()
