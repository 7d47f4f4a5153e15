"""Without the extras everything else works, and what needs one says which."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {"kubernetes-validate": "kubernetes_validate", "pillow": "PIL", "tree-sitter": "tree_sitter", "tree-sitter-bash": "tree_sitter_bash"}  # fmt: skip
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

PROPOSAL = '''
"""
```bash
echo 'unclosed
```
```sql
select from where
```
```dockerfile
RUN before from
```
```yaml
apiVersion: v1
kind: Pod
spec: {nonsense: 1}
```
```python
def broken(:
```
"""
'''


def packages(extra: str) -> list[str]:
    names = [line.partition(">")[0].partition("=")[0].partition("[")[0] for line in EXTRAS[extra]]
    return [IMPORTED_AS.get(name, name) for name in names]


def without(extra: str, program: str) -> str:
    """What the program prints where none of an extra's packages can be imported."""
    absent = f"import sys\nfor name in {packages(extra)}: sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", absent + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_their_parsers_code_checks_are_not_made_and_count_for_nothing() -> None:
    program = (
        f"from fleet_pipeline.scoring.code_checks.check import check_code\nfound = check_code({PROPOSAL.strip()})\n"
    )
    program += (
        "print([(check.check, check.passed) for check in found if 'parses' in check.check or 'schema' in check.check])"
    )
    assert without("checks", program) == "[('python parses', False), ('yaml parses', True)]"


def test_without_its_packages_the_report_says_what_to_install_and_a_page_has_its_picture() -> None:
    program = (
        "import io, numpy as np, pandas as pd\n"
        "from fleet_pipeline.common.errors import MissingExtra\n"
        "from fleet_pipeline.reports.html import write_report\n"
        "from fleet_pipeline.reports.pictures import council_picture\n"
        "print(council_picture(['A'], np.eye(1), [0.5], [0.5], [0.5], 0)[:4])\n"
        "try: write_report(io.StringIO(), 't', pd.DataFrame(), pd.DataFrame(), lambda key: None)\n"
        "except MissingExtra as error: print(error)\n"
    )
    picture, said = without("report", program).splitlines()
    assert picture == "<svg"
    assert said == "the report needs packages that are not installed: pip install 'fleet-pipeline[report]'"


def test_the_lock_takes_every_extra_and_a_plain_install_none_of_their_packages() -> None:
    lock = (ROOT / "requirements/cpu.lock").read_text(encoding="utf-8")
    plain = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for extra in ("checks", "report", "postgres", "k8s", "embeddings"):
        for line in EXTRAS[extra]:
            name = line.partition(">")[0].partition("=")[0]
            assert f"\n{name}==" in lock
            assert not [required for required in plain if required.startswith(name)]
