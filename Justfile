# The verbs. `./justw VERB` installs what a verb needs first, then runs it; `just VERB` only runs it.

set shell := ["bash", "-euo", "pipefail", "-c"]

export LIGHTBOX_ONNXRUNTIME := env("LIGHTBOX_ONNXRUNTIME", justfile_directory() / "target/parts/onnxruntime/libonnxruntime.so")

# Lists the verbs.
[private]
default:
    @just --list --unsorted

# Shows the whole line on real studies: sends, infers, reports, delivers; leaves its results in target/demo.
[positional-arguments]
demo *ARGS: parts build
    target/debug/lightbox demo "$@"

# Runs every test, with real peers; arguments go to the test runner, e.g. `./justw test --test security`.
[positional-arguments]
test *ARGS: parts peers
    cargo build --workspace --all-targets
    @echo "test: SKIPPED, being slow: the long crash tests (./justw soak, ./justw model-soak), 120 s of abuse (./justw abuse), 200 power cuts (./justw power-cut), packing 2 GB (cargo nextest run -p lightbox-models --run-ignored all), fuzzing (./justw fuzz-ci), the firmware image (./justw image-ci; all of it: ./justw image-test)"
    cargo nextest run --workspace --no-fail-fast "$@"
    cargo nextest run -p lightbox-models --features pkcs11 --test token

# Builds everything, for debugging.
build:
    cargo build --workspace

# Format, lints, and the rules for dependencies.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny --log-level error check bans licenses sources
    pyflakes3 $(git ls-files '*.py')
    @echo "lint: NOT checked: known vulnerabilities of dependencies; the advisory database is no package and may be out of reach. Where it can be reached: ./justw advisories"

# Known vulnerabilities of dependencies; fetches the RustSec advisory database.
advisories:
    cargo deny check advisories

# Fetches the pinned parts: ONNX Runtime, sample studies, the weights of reference bundles.
parts:
    @scripts/fetch-parts.sh

# Installs the tests' peers in Python.
peers:
    @scripts/python-peers.sh

# Regenerates the documents that the source writes: the site file's reference, the conformance statement.
generate: build
    target/debug/lightbox site reference > target/SITE.md
    target/debug/lightbox conformance > target/CONFORMANCE.md
    mv target/SITE.md provisioning/SITE.md
    mv target/CONFORMANCE.md CONFORMANCE.md

# SLOW, by hand: the crash test with KILLS kills (default 200) and a seed of your own or a fresh one.
soak KILLS="200" SEED="": parts peers
    cargo build --workspace --all-targets
    LIGHTBOX_KILLS={{ KILLS }} LIGHTBOX_SEED={{ SEED }} cargo nextest run -p lightbox-tests --test crash --no-capture --profile soak

# SLOW, by hand: KILLS kills while versions of a model are installed, switched and rolled back (6 in the ordinary tests).
model-soak KILLS="100" SEED="": parts peers
    cargo build --workspace --all-targets
    LIGHTBOX_KILLS={{ KILLS }} LIGHTBOX_SEED={{ SEED }} cargo nextest run -p lightbox-tests --test model_crash --no-capture --profile soak

# SLOW, by hand: 64 bad associations at once for SECONDS; then nothing has leaked and nothing is lost.
abuse SECONDS="120": parts peers
    cargo build --workspace --all-targets
    LIGHTBOX_ABUSE_SECONDS={{ SECONDS }} cargo nextest run -p lightbox-tests --test abuse --no-capture --profile soak

# By hand, on a quiet machine: the goal for STAT studies, last image to accepted report in 500 ms (p95).
latency: parts peers
    cargo build --workspace --all-targets
    LIGHTBOX_STRICT_LATENCY=1 cargo nextest run -p lightbox-tests --test latency --no-capture

# SLOW, by hand, on a quiet machine: ingest rates beside dcmtk, Orthanc and pynetdicom; writes target/bench/ingest.*
[positional-arguments]
bench-ingest *ARGS: parts peers
    cargo build --release -p lightbox
    target/tools/venv/bin/python tests/bench/ingest.py "$@"

# SLOW, by hand: the power goes CUTS times while images arrive (40 in the ordinary tests).
power-cut CUTS="200" SEED="": parts peers
    cargo build --workspace --all-targets
    LIGHTBOX_CUTS={{ CUTS }} LIGHTBOX_SEED={{ SEED }} cargo nextest run -p lightbox-tests --test power_cut --no-capture --profile soak

# What continuous integration runs.
ci:
    bash .ci/run

# SLOW, by hand: fuzzes one parser of peers' bytes for SECONDS (targets: appliance/fuzz/README.md).
fuzz TARGET SECONDS="60":
    scripts/fuzz.sh {{ TARGET }} {{ SECONDS }}

# SLOW, by hand: fuzzes every parser of peers' bytes for SECONDS, two at a time.
fuzz-all SECONDS="300":
    scripts/fuzz.sh all {{ SECONDS }}

# Fuzzes every parser of peers' bytes as continuous integration does: what is kept, then 20 seconds.
fuzz-ci:
    scripts/fuzz.sh all 20

# Builds the firmware image into target/image/FLAVOUR (production, test or debug). As root: it makes trees of Debian packages.
image FLAVOUR="production": parts
    cargo build --release -p lightbox -p lightbox-bootstrap
    os-image/image.py build --flavour {{ FLAVOUR }}

# Adds a built image to the signed repository of images (target/image/repository), from which boxes update.
image-publish FLAVOUR="production": (image FLAVOUR)
    os-image/image.py publish --flavour {{ FLAVOUR }}

# Boots an image in a virtual machine (UEFI, Secure Boot, TPM), its console here; Ctrl-C switches it off.
image-boot FLAVOUR="test":
    os-image/image.py boot --flavour {{ FLAVOUR }}

# SLOW (about 15 minutes emulated): boots the test flavour, sends a study through it, damages it in every way; writes target/image/test.json
[positional-arguments]
image-test *ONLY: (image "test")
    os-image/image.py test "$@"

# Quick checks without a virtual machine (signatures, verity, partitions, units, made again), over an image with the debug build's daemon.
image-fast FLAVOUR="production": parts build
    os-image/image.py fast --flavour {{ FLAVOUR }} --binary target/debug/lightbox

# What continuous integration runs of the image: the quick checks, and one emulated first start with a study through it.
image-ci: parts build
    os-image/image.py ci --binary target/debug/lightbox

# What is in a built image, why, and how big.
image-inspect FLAVOUR="production":
    os-image/image.py inspect --flavour {{ FLAVOUR }}

# Builds an image twice from nothing and compares: all but the signatures must be the same.
image-twice FLAVOUR="production": (image FLAVOUR)
    os-image/image.py build --flavour {{ FLAVOUR }} --again
    os-image/image.py compare --flavour {{ FLAVOUR }}

# Asks the Debian mirror for the newest packages of the image and writes os-image/packages.lock.
image-lock:
    os-image/image.py lock
