"""Random calls that fit an operation's schema, with values that somebody who wants out would choose."""

import random
from typing import Any

from fleet_pipeline.tools.operation import Operation
from fleet_pipeline_tests.support import attempts
from fleet_pipeline_tests.support.tool_world import World


class Caller:
    """`executing`: the share of calls that start a program, 50 ms each."""

    def __init__(self, world: World, seed: int, executing: float) -> None:
        self.world = world
        self.random = random.Random(seed)
        outside = str(world.outside)
        known = [
            ("\n".join(f"{name} = {value!r}" for name, value in world.facts().items()), code)
            for code in attempts.ALL.values()
        ]
        self.code = [f"{facts}\n{code}\ndef test_it(): pass\n" for facts, code in known]
        self.paths = [
            *(
                "app.py",
                "test_app.py",
                "new.py",
                "conftest.py",
                "a/b/c.txt",
                "a",
                ".",
                "link",
                "link/x",
                "d.db",
                "Makefile",
                ".git/config",
            ),
            *(
                "..",
                "../..",
                "../../outside/secret.txt",
                f"{outside}/secret.txt",
                outside,
                f"{outside}/data.db",
                "/etc/shadow",
            ),
            *(
                "a/../../x",
                "./app.py",
                "app.py/",
                "-rf",
                "--help",
                ":(top)x",
                "*.py",
                "a\nb",
                "~",
                "$HOME",
                "`id`",
                "a b",
                "é",
                "x" * 255,
            ),
        ]
        self.texts = [
            *(
                "",
                "x",
                "def one(): return 1\n",
                "test:\n\tcat " + outside + "/secret.txt; touch " + outside + "/new\n",
                "main",
                "HEAD",
            ),
            *(
                "feature",
                "select 1",
                f"attach '{outside}/data.db' as o",
                "create table t(a)",
                "select * from t",
                "drop table t",
            ),
            *(
                "pragma writable_schema = on",
                f"vacuum into '{outside}/copy.db'",
                "--",
                "; rm -rf /",
                "$(id)",
                "\x1b[2J",
                "(",
                "a|b",
                "def",
            ),
            *(
                "GET",
                f"http://127.0.0.1:{world.port}/",
                "http://169.254.169.254/",
                "not slow",
                "./...",
                "A <a@b>",
                "1",
                "é\u202e",
            ),
        ]
        operations = world.tools.families.items()
        named = [(f"{family}.{name}", one) for family, own in operations for name, one in own.operations.items()]
        self.plain = [pair for pair in named if not pair[1].executes]
        self.started = [pair for pair in named if pair[1].executes]
        self.executing = executing

    def next(self) -> tuple[str, dict[str, Any]]:
        name, operation = self.random.choice(self.started if self.random.random() < self.executing else self.plain)
        return name, self.arguments(operation)

    def arguments(self, operation: Operation) -> dict[str, Any]:
        required = set(operation.schema.get("required", []))
        properties = operation.schema.get("properties", {})
        return {
            name: self._value(name, facts)
            for name, facts in properties.items()
            if name in required or (self.random.random() < 0.5 and name != "timeout")
        }

    def _value(self, name: str, schema: dict[str, Any]) -> Any:
        choose = self.random.choice
        if "anyOf" in schema:
            return self._value(name, choose(schema["anyOf"]))
        if "enum" in schema:
            return choose(schema["enum"])
        kind = schema.get("type")
        if kind == "boolean":
            return choose([True, False])
        if kind in ("integer", "number"):
            return choose([value for value in (1, 2, 5) if value <= schema.get("maximum", 5)])
        if kind == "array":
            return [
                self._value(name, schema.get("items", {}))
                for _ in range(max(schema.get("minItems", 0), choose([0, 1, 2])))
            ]
        if kind == "object":
            return {choose(["a", "X-Own", "PATH"]): choose(self.texts)}
        if kind == "null":
            return None
        if name in ("path", "paths", "files", "to", "other", "context_path"):
            return choose(self.paths)
        if name == "content" and self.random.random() < 0.5:
            return choose(self.code)
        text = choose(self.texts)[: schema.get("maxLength", 10**6)]
        return text or "x" if schema.get("minLength") else text
