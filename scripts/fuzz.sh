#!/usr/bin/env bash
# Builds the fuzz targets with coverage instrumentation and runs them:
#   fuzz.sh build            builds all
#   fuzz.sh TARGET SECONDS   runs one, its inputs kept in target/fuzz/grown
#   fuzz.sh all SECONDS      runs each for so long, two at a time
#   fuzz.sh minimise         leaves in corpus/ the fewest small inputs that reach what was reached
# A crash is kept in appliance/fuzz/artifacts/, and the script fails.
set -euo pipefail
cd "$(dirname "$0")/../appliance/fuzz"
what=${1:?which target (appliance/fuzz/README.md), or build, all, minimise}
seconds=${2:-60}

# What cargo-fuzz passes, without its sanitizer: these flags exist in the stable compiler.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
host=$(rustc -vV | sed -n 's/^host: //p')
folder=../../target/fuzz
built=$folder/$host/fuzz
targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v '^lightbox-fuzz$')

# Only binaries are built for the host with these flags: build scripts and macros are not instrumented.
build() { cargo build --profile fuzz --target "$host" --target-dir "$folder" "$@"; }

run() {
    local target=$1 seconds=$2 log=$folder/log/$1
    mkdir -p "corpus/$target" "crashes/$target" artifacts "$folder/grown/$target" "$folder/log"
    # First everything that is kept: what once broke a parser must pass.
    "$built/$target" -runs=0 -rss_limit_mb=2048 -artifact_prefix="artifacts/$target-" \
        "corpus/$target" "crashes/$target" >"$log" 2>&1 || { tail -40 "$log"; return 1; }
    local common=(-timeout=60 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0)
    "$built/$target" -max_total_time="$seconds" "${common[@]}" -artifact_prefix="artifacts/$target-" \
        "$folder/grown/$target" "corpus/$target" >>"$log" 2>&1 || { tail -40 "$log"; return 1; }
    printf '%-12s %s runs in %s s, no crash\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)" "$seconds"
}

case "$what" in
    build) build ;;
    all)
        build
        export -f run
        export built folder
        # shellcheck disable=SC2086,SC2016
        printf '%s\n' $targets | xargs -P 2 -I '{}' bash -c 'run "$1" "$2" || { echo "FAILED: $1"; exit 1; }' _ '{}' "$seconds"
        ;;
    minimise)
        build
        for target in $targets; do
            mkdir -p "$folder/grown/$target" "$folder/small/$target" "corpus/$target"
            rm -f "$folder/small/$target"/*
            "$built/$target" -merge=1 -max_len=4096 "$folder/small/$target" "corpus/$target" "$folder/grown/$target" \
                >"$folder/minimise" 2>&1 || { tail -40 "$folder/minimise"; exit 1; }
            # The smallest first, and not more than a repository should hold.
            find "$folder/small/$target" -type f -printf '%s %p\n' | sort -n | head -150 | while read -r _ file; do
                cp -n "$file" "corpus/$target/"
            done
        done
        ;;
    *)
        build --bin "$what"
        run "$what" "$seconds"
        ;;
esac
