#!/usr/bin/env bash
# Writes the locks from pyproject.toml. Needs uv on the path (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { # compile NAME ARGUMENTS...
  uv pip compile pyproject.toml "${@:2}" --extra dev --universal --python-version 3.11 --no-header --no-annotate -q -o "requirements/$1.lock"
  # The marker that says "the platforms of this lock" stands on every line and tells nothing.
  sed -E -i "s/ ; \(python_full_version < '3.14' and platform_machine == 'aarch64' and sys_platform == 'linux'\) or \(python_full_version < '3.14' and platform_machine == 'x86_64' and sys_platform == 'linux'\)$//" "requirements/$1.lock"
}
compile cpu requirements/cpu.in --extra cpu --override requirements/cpu-overrides.txt
compile gpu requirements/gpu.in --extra gpu
