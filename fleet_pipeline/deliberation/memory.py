"""A dialogue that remembers: what was answered before is not asked again.

The protocol knows nothing of it. An engine sees only the requests that nobody has answered yet.
"""

from typing import Any, Protocol

from fleet_pipeline.deliberation.exchange import Completion, Dialogue, Exchange, Request, Result


class Memory(Protocol):
    """What has been answered in one dialogue, by this process or an earlier one."""

    def recall(self, request: Request) -> Completion | None:
        """The answer to an equal request, or None."""
        ...

    def note(self, request: Request, completion: Completion) -> None:
        """Keep an answer that an engine has just given."""
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
        request = next(exchange)
        while True:
            answer = memory.recall(request)
            if answer is None:
                answer = yield request
                memory.note(request, answer)
            request = exchange.send(answer)
    except StopIteration as stop:
        return stop.value
    finally:
        exchange.close()
