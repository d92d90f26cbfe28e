#!/usr/bin/env bash
# The tests' peers in Python (highdicom, hl7apy, pynetdicom, dicomweb-client …) in target/tools/venv, pinned by digest.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
venv=target/tools/venv
want=$(sha256sum <tests/peers/requirements.txt)
if [[ -x $venv/bin/python && -f $venv/installed && $(<"$venv/installed") == "$want" ]]; then exit 0; fi
echo "peers: installing tests/peers/requirements.txt into $venv" >&2
rm -rf "$venv"
target/tools/base/bin/python -m venv "$venv"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install \
    --only-binary=:all: --no-deps --require-hashes -r tests/peers/requirements.txt
printf '%s\n' "$want" >"$venv/installed"
