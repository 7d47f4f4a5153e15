#!/usr/bin/env bash
# Makes sure that the tests find a Chromium: one that is installed, the distribution's, or playwright's own.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in chromium chromium-browser google-chrome chrome; do
  command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "browser: installing Chromium with apt-get"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null && exit 0
fi
echo "browser: installing playwright's Chromium"
timeout 300 .venv/bin/python -m playwright install chromium && exit 0
echo "browser: no Chromium can be had; install one (apt-get install chromium), the tests of the UI and the report need it" >&2
exit 1
