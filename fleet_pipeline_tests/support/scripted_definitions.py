"""Definitions for tests that need a webserver and a daemon, which load code by module name.

While the storage holds a file `FAIL`, the scripted engine fails tasks that say "fail me". While it holds a file
`SLOW`, each answer takes half a second.
"""

import time
from pathlib import Path

from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.settings import load_settings
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.scripted import ScriptedProvider, echo

_settings = load_settings()


def _answer(prompt: Heard) -> Completion:
    if Path(_settings.storage, "SLOW").exists():
        time.sleep(0.5)
    failing = "fail me" in prompt.user and Path(_settings.storage, "FAIL").exists()
    return Completion(finish_reason="stop") if failing else echo(prompt)


defs = build_definitions(_settings, overrides={"engine": ScriptedProvider(_answer)}, allow_synthetic=True)
