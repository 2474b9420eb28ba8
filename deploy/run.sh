#!/usr/bin/env bash
# Starts the broker on COUNTERSIGN_DATA_DIR (default ./countersign-data), making the directory at the first start.
set -eu
cd "$(dirname "$0")/.."
data=${COUNTERSIGN_DATA_DIR:-countersign-data}
if [ ! -e "$data/config.toml" ]; then
    ./target/debug/countersign init --data-dir "$data" --trust-domain "${COUNTERSIGN_TRUST_DOMAIN:-countersign.localhost}"
    echo "run: made $data; operator credential in $data/operator" >&2
fi
exec ./target/debug/countersign broker --data-dir "$data"
