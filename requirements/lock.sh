#!/usr/bin/env bash
# Writes the locks from pyproject.toml. Needs uv on the path (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { # compile NAME ARGUMENTS...
  uv pip compile pyproject.toml "${@:2}" --extra checks --extra report --extra postgres --extra k8s --extra s3 --universal --python-version 3.11 --no-header --no-annotate -q -o "requirements/$1.lock"
  # The marker that says "the platforms of this lock" stands on every line and tells nothing; uv has two forms of it.
  local arm="platform_machine == 'aarch64' and sys_platform == 'linux'" intel="platform_machine == 'x86_64' and sys_platform == 'linux'"
  local old="\\(python_full_version < '3.14' and $arm\\) or \\(python_full_version < '3.14' and $intel\\)"
  local new="python_full_version < '3.14' and \\(\\($arm\\) or \\($intel\\)\\)"
  sed -E -i "s/ ; ($old|$new)$//" "requirements/$1.lock"
}
everything=(--extra dev --extra embeddings --extra models --extra tools)
compile cpu requirements/cpu.in --extra cpu "${everything[@]}" --override requirements/cpu-overrides.txt
compile gpu requirements/gpu.in --extra gpu "${everything[@]}"
# The control image of k8s/: no engine. What it shares with the others has their versions.
compile control requirements/control.in -c requirements/gpu.lock
