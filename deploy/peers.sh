#!/usr/bin/env bash
# Other verifiers beside ours: peers/ is a package outside the workspace with its own lock file and build folder.
#   peers.sh test    the same verdicts on recorded and mutated evidence, or the reason why not
#   peers.sh bench   how fast they are beside us, release build
set -eu -o pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export CARGO_TARGET_DIR=$root/target/peers
case ${1:-test} in
    test) cargo test --locked --quiet --manifest-path "$root/peers/Cargo.toml" --tests ;;
    bench) cargo bench --locked --quiet --manifest-path "$root/peers/Cargo.toml" --bench ratios ;;
    *)
        echo "usage: peers.sh test|bench" >&2
        exit 2
        ;;
esac
