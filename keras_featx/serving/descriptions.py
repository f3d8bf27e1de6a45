"""What a server says of its model: state, metadata, and the texts of methods it lacks."""

import json
from collections.abc import Iterable

from keras_featx.serving.instances import SIGNATURES

_DTYPES = {"uint8": "DT_UINT8", "string": "DT_STRING"}
# Names of tensors in a SavedModel with these signatures; nothing is reached by them.
_RESULTS = {"embed_images": "PartitionedCall:0", "serving_default": "PartitionedCall_1:0"}
_METHOD = "tensorflow/serving/predict"
# TensorFlow lists it beside the signatures of every SavedModel.
_INIT = {
    "inputs": {},
    "outputs": {
        "__saved_model_init_op": {
            "name": "NoOp",
            "dtype": "DT_INVALID",
            "tensor_shape": {"dim": [], "unknown_rank": True},
        }
    },
    "method_name": "",
    "defaults": {},
}


def status(versions: Iterable[int]) -> bytes:
    """The state of versions, the newest first."""
    ready = {"error_code": "OK", "error_message": ""}
    rows = [
        {"version": str(version), "state": "AVAILABLE", "status": ready}
        for version in sorted(versions, reverse=True)
    ]
    return f"{json.dumps({'model_version_status': rows}, indent=1)}\n".encode()


def metadata(name: str, version: int, image_size: tuple[int, int], size: int) -> bytes:
    """Signatures of a version, for images ``(height, width)`` and embeddings of ``size``."""
    spec = {"name": name, "version": str(version), "signature_name": ""}
    signatures = {
        signature: {
            "inputs": {
                one: _tensor(f"{signature}_{one}:0", dtype, _input_shape(dtype, image_size))
            },
            "outputs": {"embedding": _tensor(_RESULTS[signature], "float", [-1, size])},
            "method_name": _METHOD,
            "defaults": {},
        }
        for signature, (one, dtype) in SIGNATURES.items()
    }
    signatures = {"signature_def": {"__saved_model_init_op": _INIT, **signatures}}
    return (
        f'{{\n"model_spec":{json.dumps(spec, indent=1)}\n,\n'
        f'"metadata": {{"signature_def": {json.dumps(signatures, indent=1)}\n}}\n}}\n'
    ).encode()


def _input_shape(dtype: str, image_size: tuple[int, int]) -> list[int]:
    return [-1] if dtype == "string" else [-1, *image_size, 3]


def _tensor(name: str, dtype: str, shape: list[int]) -> dict:
    return {
        "name": name,
        "dtype": _DTYPES.get(dtype, "DT_FLOAT"),
        "tensor_shape": {
            "dim": [{"size": str(side), "name": ""} for side in shape],
            "unknown_rank": False,
        },
    }


def no_method(method: str, size: int) -> str:
    """Why ``classify`` and ``regress`` are no methods of an embedder, in the server's own words."""
    kind = {"classify": "classification", "regress": "regression"}[method]
    image = _debug("inputs", "image_bytes", "serving_default_image_bytes:0", "DT_STRING", [-1])
    found = _debug("outputs", "embedding", _RESULTS["serving_default"], "DT_FLOAT", [-1, size])
    return (
        f"No {kind} inputs found in SignatureDef: goo.gle/debugstr    \n{image}{found}"
        f'method_name: "{_METHOD}"\n'
    )


def _debug(what: str, key: str, name: str, dtype: str, shape: list[int]) -> str:
    sides = "".join(f"      dim {{\n        size: {side}\n      }}\n" for side in shape)
    return (
        f'{what} {{\n  key: "{key}"\n  value {{\n    name: "{name}"\n    dtype: {dtype}\n'
        f"    tensor_shape {{\n{sides}    }}\n  }}\n}}\n"
    )
