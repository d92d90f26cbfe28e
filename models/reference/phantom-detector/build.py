#!/usr/bin/env python3
"""Writes bundle/model.onnx of the phantom detector: a graph made by hand, no weights, no training.

    python3 -m venv VENV && VENV/bin/pip install -r requirements.txt
    VENV/bin/python build.py            # writes bundle/model.onnx, prints its SHA-256
    VENV/bin/python build.py --check    # builds in memory, fails where the committed file differs

What it computes, for `image` of shape [1, 1, H, W] in modality units (HU for CT):

1. the mask of pixels at or above THRESHOLD;
2. connected components (8-neighbourhood): every masked pixel starts with its own linear index as
   label; each round takes the largest label among the 3x3 neighbours, hands it to the pixel that
   the old label names, and lets every pixel take over its label's label, until nothing changes;
3. per component its box, its area and its largest intensity, by scatter with max, min and add;
4. components of at least AREA_MIN pixels, the KEEP largest of them, largest first.

`boxes` [N, 4] are left, top, right, bottom in pixels of `image`, right and bottom exclusive;
`scores` [N] are the largest intensity / 1000, clamped to 0..1; `labels` [N] are all 0.
"""

import hashlib
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

THRESHOLD = 300.0
AREA_MIN = 12
KEEP = 64
ROUNDS_MAX = 64

PATH = pathlib.Path(__file__).resolve().parent / "bundle" / "model.onnx"
F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Graph:
    """Nodes and constants in the order of their making, with names that say where they stand."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def op(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def const(self, name, value, dtype):
        self.constants.append(numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name


def loop_body():
    """One round: labels [1, 1, H, W] in, merged labels and 'anything changed' out."""
    b = Graph()
    b.op("MaxPool", ["labels_in"], "pooled", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    b.op("Where", ["mask", "pooled", "minus_one"], "spread")
    b.op("Reshape", ["labels_in", "flat_shape"], "old_flat")
    b.op("Cast", ["old_flat"], "old_index", to=I64)
    b.op("Reshape", ["spread", "flat_shape"], "spread_flat")
    # The background's label is -1, which indexes the last pixel: it only ever offers -1 there.
    b.op("ScatterElements", ["spread_flat", "old_index", "spread_flat"], "hooked", axis=0, reduction="max")
    b.op("Cast", ["hooked"], "hooked_index", to=I64)
    b.op("Gather", ["hooked", "hooked_index"], "jumped", axis=0)
    b.op("Where", ["mask_flat", "jumped", "minus_one"], "masked")
    b.op("Reshape", ["masked", "image_shape"], "labels_out")
    b.op("Sub", ["labels_out", "labels_in"], "difference")
    b.op("ReduceMax", ["difference"], "largest", keepdims=0)
    b.op("Greater", ["largest", "zero"], "go_on_out")
    scalar = lambda name, kind: helper.make_tensor_value_info(name, kind, [])
    image = lambda name: helper.make_tensor_value_info(name, F32, [1, 1, None, None])
    return helper.make_graph(
        b.nodes, "round",
        [scalar("round", I64), scalar("go_on_in", BOOL), image("labels_in")],
        [scalar("go_on_out", BOOL), image("labels_out")],
    )


def build():
    g = Graph()
    g.const("threshold", THRESHOLD, np.float32)
    g.const("minus_one", -1.0, np.float32)
    g.const("zero", 0.0, np.float32)
    g.const("one", 1.0, np.float32)
    g.const("far", 1e9, np.float32)
    g.const("thousand", 1000.0, np.float32)
    g.const("area_min", float(AREA_MIN), np.float32)
    g.const("keep", [KEEP], np.int64)
    g.const("rounds_max", ROUNDS_MAX, np.int64)
    g.const("true", True, np.bool_)
    g.const("flat_shape", [-1], np.int64)
    g.const("zero_i", 0, np.int64)
    g.const("one_i", 1, np.int64)
    g.const("axis0", [0], np.int64)
    g.const("axis1", [1], np.int64)

    g.op("Shape", ["image"], "image_shape")
    g.op("Shape", ["image"], "width_1", start=3, end=4)
    g.op("Size", ["image"], "count")
    g.op("Range", ["zero_i", "count", "one_i"], "index")
    g.op("Reshape", ["image", "flat_shape"], "flat")

    g.op("GreaterOrEqual", ["image", "threshold"], "mask")
    g.op("Reshape", ["mask", "flat_shape"], "mask_flat")
    g.op("Cast", ["index"], "index_f", to=F32)
    g.op("Where", ["mask_flat", "index_f", "minus_one"], "start_flat")
    g.op("Reshape", ["start_flat", "image_shape"], "start")
    g.nodes.append(helper.make_node(
        "Loop", ["rounds_max", "true", "start"], ["labelled"], name="labelled", body=loop_body()))

    # The masked pixels, as a list: linear index, component, column, row, intensity.
    g.op("NonZero", ["mask_flat"], "pixel_2d")
    g.op("Squeeze", ["pixel_2d", "axis0"], "pixel")
    g.op("Reshape", ["labelled", "flat_shape"], "labelled_flat")
    g.op("Gather", ["labelled_flat", "pixel"], "component_f", axis=0)
    g.op("Cast", ["component_f"], "component", to=I64)
    g.op("Mod", ["pixel", "width_1"], "column_i")
    g.op("Div", ["pixel", "width_1"], "row_i")
    g.op("Cast", ["column_i"], "column", to=F32)
    g.op("Cast", ["row_i"], "row", to=F32)
    g.op("Gather", ["flat", "pixel"], "intensity", axis=0)
    g.op("Mul", ["intensity", "zero"], "nothing")
    g.op("Add", ["nothing", "one"], "ones")

    g.op("Mul", ["index_f", "zero"], "blank")
    g.op("Add", ["blank", "far"], "blank_far")
    scatter = lambda data, updates, out, how: g.op(
        "ScatterElements", [data, "component", updates], out, axis=0, reduction=how)
    scatter("blank", "ones", "area_all", "add")
    scatter("blank", "column", "right_all", "max")
    scatter("blank", "row", "bottom_all", "max")
    scatter("blank_far", "column", "left_all", "min")
    scatter("blank_far", "row", "top_all", "min")
    scatter("blank", "intensity", "intensity_all", "max")

    g.op("GreaterOrEqual", ["area_all", "area_min"], "large")
    g.op("NonZero", ["large"], "root_2d")
    g.op("Squeeze", ["root_2d", "axis0"], "root")
    g.op("Gather", ["area_all", "root"], "area", axis=0)
    g.op("Shape", ["area"], "found")
    g.op("Min", ["found", "keep"], "kept")
    g.nodes.append(helper.make_node(
        "TopK", ["area", "kept"], ["area_top", "order"], name="order", axis=0, largest=1, sorted=1))
    g.op("Gather", ["root", "order"], "chosen", axis=0)
    for edge in ("left", "top", "right", "bottom"):
        g.op("Gather", [f"{edge}_all", "chosen"], f"{edge}_pixel", axis=0)
    g.op("Add", ["right_pixel", "one"], "right_edge")
    g.op("Add", ["bottom_pixel", "one"], "bottom_edge")
    for edge, name in (("left", "left_pixel"), ("top", "top_pixel"), ("right", "right_edge"), ("bottom", "bottom_edge")):
        g.op("Unsqueeze", [name, "axis1"], f"{edge}_column")
    g.op("Concat", ["left_column", "top_column", "right_column", "bottom_column"], "boxes", axis=1)
    g.op("Gather", ["intensity_all", "chosen"], "intensity_chosen", axis=0)
    g.op("Div", ["intensity_chosen", "thousand"], "ratio")
    g.op("Clip", ["ratio", "zero", "one"], "scores")
    g.op("Sub", ["chosen", "chosen"], "labels")

    graph = helper.make_graph(
        g.nodes, "lightbox-phantom-detector",
        [helper.make_tensor_value_info("image", F32, [1, 1, "height", "width"])],
        [helper.make_tensor_value_info("boxes", F32, ["found", 4]),
         helper.make_tensor_value_info("scores", F32, ["found"]),
         helper.make_tensor_value_info("labels", I64, ["found"])],
        g.constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
        producer_name="lightbox", producer_version="1")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def main():
    built = build()
    digest = hashlib.sha256(built).hexdigest()
    if "--check" in sys.argv[1:]:
        committed = hashlib.sha256(PATH.read_bytes()).hexdigest()
        if committed != digest:
            sys.exit(f"{PATH} is {committed}, this script builds {digest}: run build.py and commit the file")
    else:
        PATH.write_bytes(built)
    print(f"{digest}  {len(built)} bytes  bundle/model.onnx")


if __name__ == "__main__":
    main()
