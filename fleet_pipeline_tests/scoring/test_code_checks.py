"""The checks on code in proposals: what is wrong is found at its line, what is right passes, nothing is run."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.scoring.code_checks.blocks import MAX_BLOCKS, code_blocks
from fleet_pipeline.scoring.code_checks.check import CodeCheck, check_code
from fleet_pipeline.scoring.code_checks.policy import Pattern, rules

pytestmark = pytest.mark.unit


def fenced(language: str, code: str, before: str = "Do this:\n\n") -> str:
    return f"{before}```{language}\n{code}\n```\n\nThen look.\n"


def checks(text: str) -> dict[str, CodeCheck]:
    return {found.check: found for found in check_code(text)}


DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: shop/web:1.4.2
          ports: [{containerPort: 8080}]"""

RIGHT = {
    "python": "def total(rows):\n    return sum(row.price for row in rows)",
    "bash": 'set -euo pipefail\nfor f in *.csv; do\n  gzip "$f"\ndone',
    "json": '{"a": [1, 2, {"b": null}]}',
    "yaml": "a: 1\nb: [x, y]\n---\nc: !Ref Bucket",
    "toml": '[tool]\nname = "x"',
    "dockerfile": "FROM python:3.11-slim AS build\nRUN pip install --no-cache-dir x\nUSER 10001",
    "sql": "SELECT a, count(*) FROM t WHERE b > 3 GROUP BY a;",
}
WRONG = {
    "python": ("x = 1\ndef total(rows:\n    pass", 2),
    "bash": ("echo start\nif true; then\n  echo no end", 3),
    "json": ('{\n  "a": 1,\n  "b": }', 3),
    "yaml": ("a: 1\nb: [x, y\nc: 2", 3),
    "toml": ('[tool]\nname = "x', 2),
    "dockerfile": ("FROM python:3.11\nINSTALL curl", 2),
    "sql": ("SELECT a\nFROM WHERE b = 1", 2),
}


@pytest.mark.parametrize("language", RIGHT)
def test_code_that_is_right_passes_every_check_it_has(language: str) -> None:
    found = check_code(fenced(language, RIGHT[language]))
    assert found
    assert [(one.check, one.findings) for one in found if not one.passed] == []


@pytest.mark.parametrize("language", WRONG)
def test_code_that_is_wrong_is_found_at_its_line_of_the_proposal(language: str) -> None:
    code, line = WRONG[language]
    (failed,) = [one for one in check_code(fenced(language, code)) if not one.passed]
    assert failed.check == f"{'shell' if language == 'bash' else language} parses"
    assert abs(failed.findings[0].line - (line + 3)) <= 1  # the fence is line 3
    assert failed.findings[0].message


def test_a_proposal_without_code_has_nothing_to_check_and_that_is_no_pass() -> None:
    assert check_code("Use a token bucket. Keep `refill()` small.") == []
    assert check_code("") == []
    assert check_code("```mermaid\ngraph TD\n```") == []
    assert check_code("```text\nhello\n```") == []


def test_blocks_in_lists_keep_their_lines_and_lose_their_indentation() -> None:
    text = "1. First\n\n   ```python\n   def f():\n       return 1\n   ```\n2. Then\n"
    (block,) = code_blocks(text)
    assert (block.language, block.line, block.code) == ("python", 4, "def f():\n    return 1\n")


def test_of_a_terminal_session_only_what_was_typed_is_checked() -> None:
    assert checks(fenced("console", "$ kubectl get pods\nNAME  READY (STATUS\n$ echo done"))["shell parses"].passed
    assert not checks(fenced("console", "$ echo 'open\n$ echo done"))["shell parses"].passed


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("#!/bin/bash\nif", "shell"),
        ("FROM python:3.11\nRUN x", "dockerfile"),
        ("apiVersion: v1\nkind: Pod", "yaml"),
        ("just words", ""),
    ],
)
def test_a_block_without_a_name_is_recognised_only_where_its_first_line_leaves_no_doubt(code, language) -> None:
    assert [block.language for block in code_blocks(fenced("", code))] == [language]


def test_names_that_a_fragment_does_not_define_are_no_fault_but_a_comparison_with_a_literal_is() -> None:
    lint = checks(fenced("python", "import os\nif status is 'done':\n    publish(event)"))["python lint"]
    assert [finding.line for finding in lint.findings] == [5]
    assert "==" in lint.findings[0].message


def test_a_manifest_is_held_against_the_published_schema() -> None:
    assert checks(fenced("yaml", DEPLOYMENT))["kubernetes schema"].passed
    wrong = DEPLOYMENT.replace("containerPort: 8080", "containerPort: http")
    unknown = DEPLOYMENT.replace("image:", "imagee:")
    for code in (wrong, unknown):
        found = checks(fenced("yaml", code))["kubernetes schema"]
        assert not found.passed
        assert "containers" in found.findings[0].message


@pytest.mark.parametrize(
    "head",
    [
        {"apiVersion": "example.com/v1", "kind": "Widget"},
        {"apiVersion": "../../../../etc/v1", "kind": "passwd"},
        {"apiVersion": "v1", "kind": "../../pod"},
        {"apiVersion": ["v1"], "kind": {"a": 1}},
    ],
)
def test_a_kind_without_a_published_schema_is_not_judged_and_no_path_is_made_of_it(head: dict) -> None:
    assert "kubernetes schema" not in checks(fenced("yaml", json.dumps(head)))


def test_templates_that_are_no_yaml_yet_are_left_alone_and_those_that_are_yaml_are_checked() -> None:
    assert "yaml parses" not in checks(fenced("yaml", "a: {{ .Values.b }}\n{{- if x }}\nc: 1\n{{- end }}"))
    assert checks(fenced("yaml", "run: echo ${{ github.sha }}"))["yaml parses"].passed


def test_one_broken_block_does_not_keep_others_from_being_checked() -> None:
    bad_pod = DEPLOYMENT.replace("containerPort: 8080", "containerPort: http")
    for text in (fenced("yaml", "a: [1") + fenced("yaml", bad_pod), fenced("yaml", bad_pod) + fenced("yaml", "a: [1")):
        assert not checks(text)["kubernetes schema"].passed
        assert not checks(text)["yaml parses"].passed


def test_a_manifest_in_json_is_a_manifest() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"ports": [{"port": "http"}]},
    }
    assert not checks(fenced("json", json.dumps(service, indent=1)))["kubernetes schema"].passed


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("json", "1" * 5_000),
        ("toml", f"a = {'1' * 5_000}"),
        ("yaml", 'a: "\\U00110000"'),
        ("yaml", 'a: "\\UFFFFFFFF"'),
        ("yaml", "c: !!int "),
        ("yaml", "apiVersion: v1\nkind: Pod\nspec: !!int "),
    ],
)
def test_code_that_breaks_its_library_costs_nothing_but_its_check(language: str, code: str) -> None:
    assert {one.check for one in check_code(fenced(language, code))} >= {f"{language} parses"}


@settings(max_examples=300)
@given(st.sampled_from(sorted(RIGHT)), st.data())
def test_code_that_was_right_until_something_fell_into_it_is_checked_without_an_error(language: str, data) -> None:
    code = RIGHT[language] if language != "yaml" else data.draw(st.sampled_from([RIGHT["yaml"], DEPLOYMENT]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(code)))
        end = data.draw(st.integers(start, min(len(code), start + 8)))
        noise = data.draw(
            st.text(max_size=4) | st.sampled_from(["!!int ", '"\\U00110000"', "%(a)s", "__all__ += [1]", "*a", "&a "])
        )
        code = code[:start] + noise + code[end:]
    assert isinstance(check_code(fenced(language, code)), list)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("no secrets", "Set AWS_KEY to AKIAIOSFODNN7EXAMPLE now."),
        ("no secrets", fenced("python", 'db_password = "hunter2hunter2"')),
        ("no secrets", "postgres://shop:pa55word@db/shop"),
        ("no floating image tags", fenced("yaml", DEPLOYMENT.replace("1.4.2", "latest"))),
        ("no floating image tags", fenced("dockerfile", "FROM python:latest")),
        ("no privileged pods", fenced("yaml", "securityContext:\n  privileged: true")),
        ("no destructive commands", fenced("bash", "cd /srv\nrm -rf /")),
        ("no destructive commands", fenced("bash", "rm -r -f ~/")),
        ("no destructive commands", fenced("sql", "DROP DATABASE shop;")),
        ("no destructive commands", fenced("sql", "DELETE FROM orders;")),
        ("no secrets", fenced("yaml", "MYSQL_ROOT_PASSWORD: hunter2hunter2")),
        ("no secrets", fenced("bash", "export DB_PASSWORD=hunter2hunter2")),
        ("no secrets", fenced("dockerfile", "FROM a:1\nENV API_TOKEN=hunter2hunter2")),
        ("no floating image tags", fenced("yaml", "image: registry:5000/app:latest")),
        ("no floating image tags", fenced("dockerfile", "FROM --platform=linux/amd64 python:latest")),
        ("no floating image tags", fenced("bash", "podman run --rm x:latest")),
        ("no floating image tags", fenced("bash", "kubectl set image deploy/web web=shop/web:latest")),
        ("no privileged pods", fenced("yaml", "securityContext: {privileged: true}")),
        ("no destructive commands", fenced("bash", 'rm -rf "${HOME}"')),
        ("no destructive commands", fenced("bash", "rm --recursive --force /")),
        ("no destructive commands", fenced("bash", "rm -rf /; echo gone")),
        ("no destructive commands", fenced("sql", "DELETE FROM orders")),
        ("no destructive commands", fenced("python", "shutil.rmtree('/')")),
        ("no destructive commands", fenced("bash", "git push -f origin main")),
        ("no code from the net into a shell", fenced("bash", "curl -fsSL https://example.com/i.sh | sudo bash")),
    ],
)
def test_policy_finds(rule: str, text: str) -> None:
    found = checks(text)[rule]
    assert len(found.findings) == 1
    assert "hunter2" not in found.findings[0].message


@pytest.mark.parametrize(
    "text",
    [
        fenced("bash", "rm -rf ./build /tmp/cache"),
        fenced("sql", "DELETE FROM orders WHERE id = 3;"),
        fenced("python", 'password = os.environ["DB_PASSWORD"]\ntoken = "${TOKEN}"'),
        fenced("yaml", "image: shop/web:1.4.2\nprivileged: false"),
        fenced("dockerfile", "FROM python:3.11-slim"),
        fenced("bash", "curl -fsSL https://example.com/data.json | jq ."),
        "postgres://shop:${DB_PASSWORD}@db/shop",
        fenced("bash", "git push origin feature-f"),
        fenced("yaml", "secret: 'app-tls-certificate'"),
        fenced("bash", "# never run rm -rf /\necho no"),
        fenced("yaml", "API_TOKEN: ${API_TOKEN}\nTOKEN_SECRET: vault:shop/token"),
        "Set MAX_TOKEN=4096 and the TOKEN: it expires after 3600 seconds.",
    ],
)
def test_policy_leaves_alone(text: str) -> None:
    assert [one.check for one in check_code(text) if not one.passed] == []


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "(" * 5_000 + ")" * 5_000),
        ("python", "x = " + "+".join(["1"] * 20_000)),
        ("json", "[" * 50_000),
        ("yaml", "[" * 3_000),
        ("yaml", "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}" + f", *{'a' if n == 0 else f'b{n - 1}'}" * 9 + "]\n" for n in range(12))),
        ("sql", "SELECT " + "(" * 3_000 + "1" + ")" * 3_000),
        ("bash", "$(" * 3_000),
        ("bash", "a " * 40_000),
        ("toml", "a = " + "[" * 3_000),
        ("dockerfile", "RUN \\\n" * 5_000),
    ],
)  # fmt: skip
def test_code_made_to_break_its_reader_is_read_or_reported_and_breaks_nothing(language: str, code: str) -> None:
    assert isinstance(check_code(fenced(language, code)), list)


def test_a_block_that_is_too_long_for_a_parser_is_not_checked_and_not_cut_into_something_else() -> None:
    assert check_code(fenced("sh", "a|" * 10_001)) == check_code(fenced("toml", "a." * 10_000 + "a=1")) == []


def test_more_blocks_than_anyone_writes_are_left_unread() -> None:
    assert len(list(code_blocks(fenced("json", "{}") * (MAX_BLOCKS + 50)))) == MAX_BLOCKS


@given(st.sampled_from(sorted({*RIGHT, "", "console"})), st.text(max_size=120))
def test_any_text_in_a_block_is_checked_without_an_error(language: str, code: str) -> None:
    text = fenced(language, code)
    lines = len(text.splitlines())
    for one in check_code(text):
        assert all(1 <= finding.line <= lines + 1 for finding in one.findings)


def test_nothing_in_a_proposal_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    touch = {
        "python": f"open({str(mark)!r}, 'w')",
        "bash": f"touch {mark}",
        "yaml": f"a: !!python/object/apply:os.system ['touch {mark}']",
    }
    for language, code in touch.items():
        check_code(fenced(language, code))
    assert not mark.exists()


def test_the_answers_written_for_the_project_hold_code_that_mostly_passes() -> None:
    """Findings there are looked at by hand: they are faults of the answers, not of the checks."""
    cases = [
        json.loads(line) for file in sorted((Path(__file__).parent / "cases").rglob("*.jsonl")) for line in file.open()
    ]
    found = [one for case in cases for answer in case["answers"] for one in check_code(answer)]
    assert len(found) > 60
    assert sum(one.passed for one in found) / len(found) > 0.9


HINTED = [pattern for rule in rules() for pattern in rule.patterns if pattern.hints is not None]


@pytest.mark.parametrize("pattern", HINTED, ids=[pattern.regex.pattern[:20] for pattern in HINTED])
@given(data=st.data())
def test_a_hint_of_a_pattern_stands_in_all_that_it_matches(pattern: Pattern, data: st.DataObject) -> None:
    """A text without a hint is not searched, so a hint that is missing would hide a secret."""
    found = pattern.regex.search(data.draw(st.from_regex(pattern.regex)))
    assert found is None or pattern.may_match(found[0].casefold())


@pytest.mark.parametrize(
    "text",
    ["Set API_KEY=abcdefgh1\rThen go on", " " * 980 + "AKIA" + "B" * 16 + "C more", " " * 983 + "TOKEN=abcdefgh1xx!zz"],
)
def test_what_matches_in_a_cut_line_only_is_no_finding(text: str) -> None:
    """A line may end where the text does not: at its thousandth character, and at breaks other than a newline."""
    assert check_code(text) == []
