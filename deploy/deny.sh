#!/usr/bin/env bash
# Dependency policy (deny.toml): licences, bans and sources, and advisories where a copy of RustSec's advisory-db is at
# hand (COUNTERSIGN_ADVISORY_DB: a tar.xz of its crates/ rust/ collections/).
set -eu -o pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "deny: cargo-deny is not installed (cargo install --locked cargo-deny); skipped" >&2
    exit 0
fi
# cargo-deny looks at what every platform would build, and a machine has built only for its own.
if ! cargo fetch --locked --quiet; then
    echo "deny: dependencies of other platforms cannot be fetched here; skipped" >&2
    exit 0
fi
archive=${COUNTERSIGN_ADVISORY_DB:-}
if [ -z "$archive" ]; then
    cargo deny --offline check licenses bans sources
    exit 0
fi
# cargo-deny looks for a clone under a fixed name for the default URL, and for the time it was fetched.
database=$(mktemp -d)
trap 'rm -rf "$database"' EXIT
clone=$database/advisory-db-3157b0e258782691
mkdir -p "$clone"
tar xJf "$archive" -C "$clone"
git -C "$clone" init -q
git -C "$clone" add -A
git -C "$clone" -c user.name=deny -c user.email=deny@localhost commit -qm snapshot
touch "$clone/.git/FETCH_HEAD"
sed "s|^db-path = .*|db-path = \"$database\"|" deny.toml > "$database/deny.toml"
cargo deny --offline --config "$database/deny.toml" check
