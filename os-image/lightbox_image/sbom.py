"""The image's bill of materials (CycloneDX 1.6): Debian packages of the root, the kernel, and our own parts."""

import hashlib
import json
import uuid


def make(version, flavour, packages, tree):
    """The document; its serial number derives from its contents, so that two builds are the same."""
    components = []
    for package in packages:
        if not {"root", "kernel"} & set(package.sets):
            continue
        components.append({
            "type": "library", "name": package.name, "version": package.version,
            "purl": f"pkg:deb/debian/{package.name}@{package.version.replace(':', '%3A')}?arch={package.architecture}&distro=trixie",
            "hashes": [{"alg": "SHA-256", "content": package.sha256}],
            "properties": [{"name": "lightbox:in", "value": ",".join(package.sets)}],
        })
    for name, path in (("lightbox", "usr/bin/lightbox"), ("onnxruntime", "usr/lib/lightbox/libonnxruntime.so")):
        digest = hashlib.sha256((tree / path).read_bytes()).hexdigest()
        components.append({"type": "application" if name == "lightbox" else "library", "name": name,
                           **({"version": version} if name == "lightbox" else {}),
                           "hashes": [{"alg": "SHA-256", "content": digest}],
                           "properties": [{"name": "lightbox:path", "value": "/" + path}]})
    for bundle in sorted((tree / "usr/lib/lightbox/bundles").iterdir()):
        own = json.loads((bundle / "sbom.json").read_text())
        components.append({"type": "machine-learning-model", "name": bundle.name,
                           "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(
                               (bundle / "manifest.toml").read_bytes()).hexdigest()}],
                           "properties": [{"name": "lightbox:components", "value": str(len(own.get("components", [])))}]})
    text = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, text)}",
        "metadata": {"component": {"type": "firmware", "name": "lightbox-image", "version": version,
                                   "properties": [{"name": "lightbox:flavour", "value": flavour}]}},
        "components": components,
    }
