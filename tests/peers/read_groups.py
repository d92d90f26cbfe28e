"""Reads an SR of TID 1500 with highdicom and prints what it says as JSON.

    read_groups.py FILE
"""

import json
import sys

import highdicom as hd

document = hd.sr.srread(sys.argv[1])
content = document.content


def code(item):
    return {"value": item.value, "scheme": item.scheme_designator, "meaning": item.meaning}


def measurements(group):
    return [
        {"name": code(m.name), "value": float(m.value), "unit": code(m.unit)} for m in group.get_measurements()
    ]


def evaluations(group):
    return [{"name": code(e.name), "value": code(e.value)} for e in group.get_qualitative_evaluations()]


def common(group):
    return {
        "tracking_id": group.tracking_identifier,
        "tracking_uid": group.tracking_uid,
        "finding": code(group.finding_type) if group.finding_type else None,
        "category": code(group.finding_category) if group.finding_category else None,
        "measurements": measurements(group),
        "evaluations": evaluations(group),
    }


planar = []
for group in content.get_planar_roi_measurement_groups():
    region = group.roi
    source = region.ContentSequence[0].ReferencedSOPSequence[0]
    planar.append(
        common(group)
        | {
            "graphic_type": region.GraphicType,
            "points": [float(number) for number in region.GraphicData],
            "source": str(source.ReferencedSOPInstanceUID),
            "frame": int(source.ReferencedFrameNumber) if "ReferencedFrameNumber" in source else None,
        }
    )
image_level = []
for group in content.get_image_measurement_groups():
    sources = [str(item.ReferencedSOPInstanceUID) for item in group.source_images]
    image_level.append(common(group) | {"sources": sources})

print(
    json.dumps(
        {
            "sop_class": str(document.SOPClassUID),
            "completion": document.CompletionFlag,
            "verification": document.VerificationFlag,
            "preliminary": getattr(document, "PreliminaryFlag", None),
            "sop_instance_uid": str(document.SOPInstanceUID),
            "study_uid": str(document.StudyInstanceUID),
            "predecessors": [
                str(sop.ReferencedSOPInstanceUID)
                for study in getattr(document, "PredecessorDocumentsSequence", [])
                for series in study.ReferencedSeriesSequence
                for sop in series.ReferencedSOPSequence
            ],
            "planar": planar,
            "image_level": image_level,
        }
    )
)
