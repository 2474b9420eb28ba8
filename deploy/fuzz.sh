#!/usr/bin/env bash
# Runs every fuzz target of attestation/fuzz briefly, with stable Rust and a C++ compiler alone: libFuzzer needs the
# compiler's coverage passes, not a nightly. For long runs use `cargo fuzz run TARGET` in attestation/.
#   FUZZ_SECONDS   time for each target (3)
set -eu -o pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
seconds=${FUZZ_SECONDS:-3}
fuzz=$root/attestation/fuzz
build=$root/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

export CARGO_TARGET_DIR=$build
# With --target, build scripts and macros are not instrumented.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --locked --quiet --release --bins --target "$host" --manifest-path "$fuzz/Cargo.toml"

one() {
    local target=$1 work=$build/work/$1
    rm -rf "$work"
    mkdir -p "$work/found"
    # What it learns goes to the first folder; the seeds in the repository are only read.
    local seeds=()
    [ -d "$fuzz/corpus/$target" ] && seeds=("$fuzz/corpus/$target")
    if ! "$build/$host/release/$target" -seed=1 -runs=200000 -max_total_time="$seconds" -timeout=5 \
        -rss_limit_mb=1024 -max_len=16384 -artifact_prefix="$work/" "$work/found" "${seeds[@]}" \
        > "$work/log" 2>&1; then
        tail -n 40 "$work/log"
        echo "fuzz: $target failed; the input is in $work"
        return 1
    fi
    printf '%-22s %s\n' "$target" "$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\).*/\1 runs in \2 s/p' "$work/log")"
}
export -f one
export seconds fuzz build host
cd "$fuzz/fuzz_targets"
ls -- *.rs | sed 's/\.rs$//' | xargs -P 2 -I{} bash -eu -o pipefail -c 'one {}'
