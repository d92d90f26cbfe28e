#!/usr/bin/env bash
# Builds a fuzz target with coverage instrumentation and runs it: fuzz.sh TARGET SECONDS
set -euo pipefail
cd "$(dirname "$0")/../appliance/fuzz"
target=${1:?which target: association, command, header, charset, mllp, er7}
seconds=${2:-60}
# What cargo-fuzz passes, without its sanitizer: these flags exist in the stable compiler.
export RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --target-dir ../../target/fuzz --bin "$target"
mkdir -p "corpus/$target" artifacts "../../target/fuzz/grown/$target"
"../../target/fuzz/$host/release/$target" -max_total_time="$seconds" -artifact_prefix="artifacts/$target-" \
    "../../target/fuzz/grown/$target" "corpus/$target"
