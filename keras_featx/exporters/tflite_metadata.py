"""What a ``.tflite`` says of itself: to MediaPipe in its metadata, to our programs in a file in it.

MediaPipe's tasks read a flatbuffer named ``TFLITE_METADATA`` (TensorFlow Lite's
``metadata_schema.fbs``), which says that the input is an RGB image. Our programs on devices read
``keras_featx.json`` in a ZIP archive behind the model, as MediaPipe's own label files lie there:
``unzip -p model.tflite keras_featx.json`` shows it, and runtimes see only the model in front.
"""

import dataclasses
import io
import json
import zipfile
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from keras_featx.fingerprints import rounded
from keras_featx.models import EMBEDDING, IMAGE
from keras_featx.sections import PreprocessSection

FILE = "keras_featx.json"
_METADATA, _IDENTIFIER = b"TFLITE_METADATA", b"M001"
# Whose embeddings are too far from the float ones to search them unmeasured.
_OTHERS = ("tflite_dynamic", "tflite_int8")
# Of tables of metadata_schema.fbs.
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES, _RGB = 2, 1, 1


class _Aligned(flatbuffers.Builder):
    """Kernels may read weights 16 bytes at a time."""

    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802, N803
        """As its parent, from a multiple of 16 bytes on."""
        return super().StartVector(elemSize, numElems, max(alignment, 16))


def facts(
    kind: str, preprocess: PreprocessSection, fingerprint: str, licence: str | None = None
) -> dict[str, Any]:
    """What our programs on devices need to know of a model.

    Args:
        kind: Its format, such as ``tflite_float16``.
        preprocess: How images become its input; the mean is inside the model.
        fingerprint: Of the network.
        licence: Of the weights.
    """
    how = dataclasses.asdict(preprocess)
    del how["mean"], how["std"]
    return {
        "format": 1,
        "fingerprint": rounded(fingerprint, kind) if kind in _OTHERS else fingerprint,
        "preprocess": how,
        "licence": licence,
    }


def add(model: bytes, about: dict[str, Any]) -> bytes:
    """The same model with metadata, and with ``about`` behind it."""
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    height, width = tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]].shape[1:3]
    buffer = schema.BufferT()
    buffer.data = list(_mediapipe(int(height), int(width), about["licence"]))
    entry = schema.MetadataT()
    entry.name, entry.buffer = _METADATA, len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata = [*(tree.metadata or []), entry]
    builder = _Aligned(len(model) + 4096)
    builder.Finish(tree.Pack(builder), b"TFL3")
    file = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        # With a date of its own, the same model would be another file each time.
        archive.writestr(zipfile.ZipInfo(FILE), json.dumps(about))
    return file.getvalue()


def _mediapipe(height: int, width: int, licence: str | None) -> bytes:
    """``ModelMetadata`` of an image embedder whose input needs no normalisation."""
    builder = flatbuffers.Builder(512)

    def table(*fields: tuple[int, str, Any]) -> int:
        builder.StartObject(1 + max((slot for slot, _, _ in fields), default=0))
        for slot, kind, value in fields:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
        return builder.EndObject()

    def vector(offset: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def tensor(name: str, kind: int, properties: int) -> int:
        text = builder.CreateString(name)
        content = table((0, "Uint8", kind), (1, "UOffsetTRelative", properties))
        return table((0, "UOffsetTRelative", text), (3, "UOffsetTRelative", content))

    size = table((0, "Uint32", width), (1, "Uint32", height))
    colours = table((0, "Int8", _RGB), (1, "UOffsetTRelative", size))
    inputs = vector(tensor(IMAGE, _IMAGE_PROPERTIES, colours))
    outputs = vector(tensor(EMBEDDING, _FEATURE_PROPERTIES, table()))
    graphs = vector(table((2, "UOffsetTRelative", inputs), (3, "UOffsetTRelative", outputs)))
    name = builder.CreateString("image embedder")
    fields = [(0, "UOffsetTRelative", name), (3, "UOffsetTRelative", graphs)]
    if licence:
        fields.append((5, "UOffsetTRelative", builder.CreateString(licence)))
    # The oldest parser of such metadata reads it.
    fields.append((7, "UOffsetTRelative", builder.CreateString("1.0.0")))
    builder.Finish(table(*fields), _IDENTIFIER)
    return bytes(builder.Output())
