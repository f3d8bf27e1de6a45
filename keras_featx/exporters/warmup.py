"""Requests that TensorFlow Serving runs before it serves: ``tf_serving_warmup_requests``.

A TFRecord of ``PredictionLog`` messages. TensorFlow's wheel has their parts but not themselves, so
their few fields that are used here are declared below, by the numbers they have in TensorFlow
Serving's ``apis/prediction_log.proto``, ``predict.proto`` and ``model.proto``.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

from keras_featx.errors import RunError, first_line

FILE = "assets.extra/tf_serving_warmup_requests"
MOST = 1000  # TensorFlow Serving refuses more

Request = tuple[str, dict[str, np.ndarray]]

_FIELD = descriptor_pb2.FieldDescriptorProto
# message: field, number, type, of another message
_MESSAGES = {
    "ModelSpec": [("name", 1, _FIELD.TYPE_STRING), ("signature_name", 3, _FIELD.TYPE_STRING)],
    "Input": [("key", 1, _FIELD.TYPE_STRING), ("value", 2, _FIELD.TYPE_BYTES)],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "Input")],
    "PredictLog": [("request", 1, "PredictRequest")],
    "PredictionLog": [("predict_log", 6, "PredictLog")],
}


@cache
def _prediction_log():
    """The class of ``PredictionLog`` messages."""
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_featx_warmup.proto", package="keras_featx", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=_FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".keras_featx.{kind}"
            else:
                added.type = kind
            if field == "inputs":  # a map is a repeated message of keys and values
                added.label = _FIELD.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("keras_featx.PredictionLog"))


def write_warmup(folder: Path, requests: list[Request], model: str = "embedder") -> None:
    """Put requests, each a signature and its inputs, into a version folder."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = _prediction_log()()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = model, signature
            for key, value in inputs.items():
                tensor = tf.make_tensor_proto(value)
                request.inputs.add(key=key, value=tensor.SerializeToString())
            writer.write(log.SerializeToString())


def read_warmup(folder: Path) -> Iterator[Request]:
    """The requests of a version folder.

    Raises:
        RunError: If there are none, too many, or one is no request.
    """
    path = folder / FILE
    if not path.is_file():
        raise RunError(f"{path}: missing")
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        requests = []
        for record in records:
            request = _prediction_log().FromString(record).predict_log.request
            inputs = {
                one.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(one.value))
                for one in request.inputs
            }
            requests.append((request.model_spec.signature_name, inputs))
    except Exception as error:  # of protobuf, of TFRecord, of shapes that do not fit
        raise RunError(f"{path}: expected warm-up requests: {first_line(error)}") from None
    if not 1 <= len(requests) <= MOST:
        raise RunError(f"{path}: expected 1 to {MOST} requests, got {len(requests)}")
    yield from requests
