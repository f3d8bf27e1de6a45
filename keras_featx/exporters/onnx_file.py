"""ONNX: uint8 pixels in, embedding out; hard-swish and hard sigmoid as one operator each."""

import logging
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from keras_featx.exporters.graph import frozen
from keras_featx.models import EMBEDDING, IMAGE

OPSET = 18
BATCH = "batch"


def save(deployed: keras.Model, path: Path, layout: str = "NHWC") -> None:
    """Write an ``.onnx`` whose batch is free.

    Args:
        deployed: From :func:`keras_featx.exporters.deploy.deploy_form`.
        path: Of the file.
        layout: ``NHWC`` or ``NCHW``: the order of the axes of ``image``.
    """
    spec = tf.TensorSpec((None, *deployed.input_shape[1:]), tf.uint8, name=IMAGE)
    embed = frozen(deployed)
    function = tf.function(lambda image: {EMBEDDING: embed(tf.cast(image, tf.float32))})
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    model, _ = tf2onnx.convert.from_function(
        function,
        input_signature=[spec],
        opset=OPSET,
        inputs_as_nchw=[IMAGE] if layout == "NCHW" else None,
    )
    _fuse_activations(model.graph)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH
    del model.graph.value_info[:]  # inferred shapes name the batch otherwise
    model.producer_name = "keras_featx"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _fuse_activations(graph: onnx.GraphProto) -> None:
    """``clip(x + 3, 0, 6) / 6`` becomes HardSigmoid, that times x HardSwish, in place.

    The converter writes them as three and four operators, each a pass over the whole map.
    """
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    gone = []

    def is_constant(name: str, value: float) -> bool:
        array = constants.get(name)
        return array is not None and array.size == 1 and np.isclose(array.item(), value)

    def split(node, value: float) -> str | None:
        """Of an operation on a constant, the other operand."""
        for name, other in zip(node.input, reversed(node.input), strict=True):
            if is_constant(other, value):
                return name
        return None

    def alone(name: str, kind: str):
        """What made a tensor, if it is of this kind and nobody else reads it."""
        node = producers.get(name)
        return node if node and node.op_type == kind and len(readers[name]) == 1 else None

    for last in list(graph.node):
        clipped = split(last, 1 / 6) if last.op_type == "Mul" else None
        clip = clipped and alone(clipped, "Clip")
        if not clip or not (is_constant(clip.input[1], 0) and is_constant(clip.input[2], 6)):
            continue
        added = alone(clip.input[0], "Add")
        source = added and split(added, 3)
        if not source:
            continue
        gone += [clip, added]
        product = readers[last.output[0]][0] if len(readers[last.output[0]]) == 1 else None
        if product is not None and sorted(product.input) == sorted([source, last.output[0]]):
            fused = onnx.helper.make_node("HardSwish", [source], product.output, last.name)
            gone.append(last)
            product.CopyFrom(fused)
        else:
            how = {"alpha": 1 / 6, "beta": 0.5}
            last.CopyFrom(
                onnx.helper.make_node("HardSigmoid", [source], last.output, last.name, **how)
            )
    for node in gone:
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for one in list(graph.initializer):
        if one.name not in read:
            graph.initializer.remove(one)
