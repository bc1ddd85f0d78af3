#!/usr/bin/env bash
# Runs fuzzers, one after the other: tests/fuzz/run.sh [SECONDS [TARGET...]], 600 seconds each by default.
# Needs a nightly toolchain, a C++ compiler and cargo-fuzz (cargo install cargo-fuzz --locked).
# What is found goes to target/fuzz-corpus; an input that breaks a property ends it and goes to
# tests/fuzz/artifacts. Fix that, and keep the input in tests/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-600}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(basename -s .rs tests/fuzz/fuzz_targets/*.rs)
fi
# Some properties write files: in memory where there is such a place.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
for target in "${targets[@]}"; do
    found=target/fuzz-corpus/$target
    mkdir -p "$found"
    echo "== $target"
    nice cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz "$target" \
        "$found" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 -print_final_stats=1
done
