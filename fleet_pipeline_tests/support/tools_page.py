"""The table of operations in docs/tools.md, from their declarations. `python -m fleet_pipeline_tests.support.tools_page` writes it."""

from pathlib import Path

from fleet_pipeline.tools.toolbox import FAMILIES, prompt_text

PAGE = Path(__file__).parents[2] / "docs/tools.md"
BEGIN, END = "<!-- operations -->\n", "<!-- /operations -->\n"
# The earlier system's operations, where ours differ.
EARLIER = {
    "files.read_file": "`encoding`: UTF-8 alone",
    "files.search_in_files": "by grep alone",
    "files.edit_file": "replaced every occurrence",
    "files.move_file": "new",
    "files.copy_file": "new",
    "git.clone": "fetched any URL; here the workspace is made from it, and this begins again",
    "git.push": "to any remote; here to the workspace's own origin",
    "git.pull": "from any remote; here from the workspace's own origin",
    "git.show": "new",
    "git.restore": "new",
    "tests.unittest": "new",
    "tests.npm_test": "ran with the whole environment",
    "http.request": "was the others' helper",
    "db.postgresql_query": "took an address with its password",
    "db.redis_command": "took an address with its password",
    "db.neo4j_query": "took an address with its password",
    "db.sqlite_query": "new",
    "docker.run": "any image, volume and port",
    "docker.logs": "`follow` is left out: a call ends",
}


def table() -> str:
    lines = ["| operation | | | earlier |", "| --- | --- | --- | --- |"]
    for family in FAMILIES.values():
        for one in family.operations.values():
            name = f"{family.name}.{one.name}"
            signature, _, said = prompt_text({name: one}).partition("): ")
            marks = "!" * one.writes + ">" * one.executes
            shown = f"{signature})".replace("|", "\\|")
            lines.append(f"| `{shown}` | {marks} | {said} | {EARLIER.get(name, '')} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
