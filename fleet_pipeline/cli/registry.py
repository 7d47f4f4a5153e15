"""The commands, each once: its name, its purpose, and its module.

A command's module is imported when the command is called, so that `fleet --help` waits for none of them. The
function in `cli/<module>.py` has the command's name.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    name: str
    help: str
    module: str


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Have deliberations held": (
        Entry("run", "those of a backlog, here and now", "run"),
        Entry("submit", "hand tasks to a pipeline that runs, and return at once", "submit"),
        Entry("backlog", "what of a backlog would run, and what not", "backlog"),
        Entry("status", "where they stand", "status"),
    ),
    "Read what came of it": (
        Entry("show", "one deliberation: winner, others, who said what", "show"),
        Entry("explain", "why the winner won", "show"),
        Entry("report", "a run as one HTML file", "report"),
        Entry("export", "a table of many deliberations as one file", "export"),
        Entry("score", "proposals made elsewhere, without an engine", "score"),
    ),
    "Keep it running": (
        Entry("doctor", "look at everything it needs, and say what to mend", "doctor"),
        Entry("eval", "do councils solve more than one agent, for the same tokens?", "eval"),
        Entry("models", "which are here, and fetch one", "models"),
        Entry("tools", "what agents can do in a workspace, and do it by hand", "tools"),
        Entry("metrics", "figures for Prometheus", "metrics"),
        Entry("events", "the broker: check, replay, reconcile, schemas", "events"),
        Entry("serve", "answer questions on NATS", "serve"),
        Entry("prune", "remove what is old", "prune"),
        Entry("config", "the settings in force, and where each comes from", "config"),
        Entry("home", "the folder of the Dagster instance", "config"),
    ),
}
COMMANDS: dict[str, Entry] = {entry.name: entry for entries in SECTIONS.values() for entry in entries}
