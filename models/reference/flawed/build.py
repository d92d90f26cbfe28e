#!/usr/bin/env python3
"""Networks that a box must refuse or cut short, named by flaw. Same inputs and outputs as the phantom detector.

    build.py FOLDER      (needs phantom-detector/requirements.txt)
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def constant(name, values, kind):
    return numpy_helper.from_array(np.array(values, dtype=kind), name)


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def network(nodes, constants):
    """A network whose score is the tensor "score" of any shape, with one box and one label."""
    nodes = [helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0), *nodes,
             helper.make_node("Expand", ["brightest", "four"], ["boxes"]),
             helper.make_node("Cast", ["nothing"], ["labels"], to=TensorProto.INT64)]
    constants = [constant("one", [1], np.int64), constant("four", [1, 4], np.int64),
                 constant("nothing", [0.0], np.float32), *constants]
    graph = helper.make_graph(
        nodes, "flawed", [value("image", TensorProto.FLOAT, [1, 1, None, None])],
        [value("boxes", TensorProto.FLOAT, [None, 4]), value("scores", TensorProto.FLOAT, [None]),
         value("labels", TensorProto.INT64, [None])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model.SerializeToString()


def endless_loop():
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Add", ["sum", "step"], ["more"])],
        "turn", [value("turn_number", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []),
                 value("sum", TensorProto.FLOAT, [])],
        [value("goes_on", TensorProto.BOOL, []), value("more", TensorProto.FLOAT, [])],
        [constant("step", 1.0, np.float32)])
    return network([helper.make_node("Loop", ["", "true", "brightest"], ["last"], body=body),
                    helper.make_node("Reshape", ["last", "one"], ["scores"])], [constant("true", True, np.bool_)])


def long_output():
    """2 GB of scores."""
    return network([helper.make_node("Reshape", ["brightest", "one"], ["first"]),
                    helper.make_node("Expand", ["first", "many"], ["scores"])],
                   [constant("many", [500_000_000], np.int64)])


def slow_load():
    """Products of large matrices without an input among them: a runtime computes them while it loads."""
    chain = [helper.make_node("ConstantOfShape", ["large"], ["m0"],
                              value=helper.make_tensor("each", TensorProto.FLOAT, [1], [1 / 2048]))]
    chain += [helper.make_node("MatMul", [f"m{at}", "m0"], [f"m{at + 1}"]) for at in range(400)]
    return network([*chain, helper.make_node("ReduceMean", ["m400"], ["mean"], keepdims=0),
                    helper.make_node("Reshape", ["mean", "one"], ["scores"])],
                   [constant("large", [2048, 2048], np.int64)])


def external_data():
    """Weights that lie in another file: here, in the device's own key."""
    elsewhere = onnx.TensorProto(name="elsewhere", data_type=TensorProto.UINT8, dims=[20],
                                 data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "device.key"), ("offset", "0"), ("length", "20")):
        elsewhere.external_data.add(key=key, value=text)
    return network([helper.make_node("Cast", ["elsewhere"], ["scores"], to=TensorProto.FLOAT)], [elsewhere])


def half(factor=None):
    """The phantom detector with its input rounded to 16 bits; with its scores multiplied, where a factor is given."""
    model = onnx.load(pathlib.Path(__file__).parent.parent / "phantom-detector/bundle/model.onnx")
    graph = model.graph
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == "image":
                node.input[at] = "rounded"
    nodes = [helper.make_node("Cast", ["image"], ["narrow"], to=TensorProto.FLOAT16),
             helper.make_node("Cast", ["narrow"], ["rounded"], to=TensorProto.FLOAT), *graph.node]
    if factor is not None:
        for node in nodes:
            for at, name in enumerate(node.output):
                if name == "scores":
                    node.output[at] = "true_scores"
        graph.initializer.append(constant("factor", factor, np.float32))
        nodes.append(helper.make_node("Mul", ["true_scores", "factor"], ["scores"]))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def main():
    folder = pathlib.Path(sys.argv[1])
    # One of these is well: a box must take it.
    (folder / "half.onnx").write_bytes(half())
    (folder / "half-off.onnx").write_bytes(half(0.95))
    for name, make in (("endless-loop", endless_loop), ("long-output", long_output), ("slow-load", slow_load),
                       ("external-data", external_data)):
        (folder / f"{name}.onnx").write_bytes(make())


main()
