"""Networks in the runtimes that are served: LiteRT for ``.tflite``, ONNX Runtime for ``.onnx``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_featx.errors import RunError, first_line

# uint8 (height, width, 3) to float32 (embedding_size,).
Network = Callable[[np.ndarray], np.ndarray]

# The names of an export's input and output; keras_featx.models has them, but imports Keras.
IMAGE, EMBEDDING = "image", "embedding"
# Of the length of a first embedding; float16 and integers round.
_NORM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Opened:
    """A file that was opened and tried.

    Attributes:
        networks: One for each thread.
        embedding_size: Numbers of an embedding.
    """

    networks: list[Network]
    embedding_size: int


def open_networks(path: Path, image_size: tuple[int, int], count: int) -> Opened:
    """Open a file for so many threads, each of which may call one at a time.

    Args:
        path: ``.tflite`` or ``.onnx``.
        image_size: (height, width) that the config beside it names.
        count: Of threads.

    Raises:
        RunError: If the file cannot be opened, or is another network than the config says.
    """
    try:
        if path.suffix == ".onnx":
            networks = [_onnx(path, image_size)] * count
        else:
            networks = [_litert(path, image_size) for _ in range(count)]
    except RunError:
        raise
    except Exception as error:  # of many classes, by runtime and fault
        raise RunError(
            f"{path}: expected a network that can be opened: {first_line(error)}"
        ) from None
    return Opened(networks, _embedding_size(path, networks[0], image_size))


def _embedding_size(path: Path, network: Network, image_size: tuple[int, int]) -> int:
    """Of one image's embedding; a broken file may open and yet give anything."""
    image = np.random.default_rng(0).integers(0, 256, (*image_size, 3), "uint8")
    try:
        found = network(image)
    except Exception as error:
        raise RunError(f"{path}: expected an embedding of an image: {first_line(error)}") from None
    if found.ndim != 1:
        raise RunError(
            f"{path}: expected output {EMBEDDING} of shape [1, size], got {[1, *found.shape]}"
        )
    norm = float(np.linalg.norm(found))
    if not abs(norm - 1) <= _NORM_TOLERANCE:  # NaN is refused too
        raise RunError(f"{path}: expected embeddings of norm 1, got {norm:.3g}")
    return len(found)


def _litert(path: Path, image_size: tuple[int, int]) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    signatures = interpreter.get_signature_list()
    if "serving_default" not in signatures:
        raise RunError(f"{path}: expected a signature serving_default, got {sorted(signatures)}")
    runner = interpreter.get_signature_runner("serving_default")
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    _check_names(path, list(inputs), list(outputs))
    dtype = inputs[IMAGE]["dtype"]
    _check_input(path, inputs[IMAGE]["shape"].tolist(), np.dtype(dtype).name, image_size)

    def network(image: np.ndarray) -> np.ndarray:
        return runner(**{IMAGE: image[None].astype(dtype, copy=False)})[EMBEDDING][0]

    return network


def _onnx(path: Path, image_size: tuple[int, int]) -> Network:
    try:
        import onnxruntime
    except ImportError:
        raise RunError(f"{path}: ONNX files are served with: pip install onnxruntime") from None
    # Requests already keep the cores busy; one session serves all threads.
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = how.inter_op_num_threads = 1
    how.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), how, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _check_names(path, [one.name for one in inputs], [one.name for one in outputs])
    kind = inputs[0].type
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(kind, kind)
    shape = inputs[0].shape
    channels_first = list(shape[1:]) == [3, *image_size]
    _check_input(path, [shape[0], *shape[2:], 3] if channels_first else shape, dtype, image_size)

    def network(image: np.ndarray) -> np.ndarray:
        if channels_first:
            image = image.transpose(2, 0, 1)
        return session.run([EMBEDDING], {IMAGE: image[None].astype(dtype, copy=False)})[0][0]

    return network


def _check_names(path: Path, inputs: list[str], outputs: list[str]) -> None:
    for what, name, found in (("input", IMAGE, inputs), ("output", EMBEDDING, outputs)):
        if found != [name]:
            raise RunError(f"{path}: expected one {what} named {name}, got {found}")


def _check_input(path: Path, shape: list, dtype: str, image_size: tuple[int, int]) -> None:
    # A free batch has a name.
    if list(shape[1:]) != [*image_size, 3] or (isinstance(shape[0], int) and shape[0] != 1):
        raise RunError(
            f"{path}: expected input {IMAGE} of shape [1, {image_size[0]}, {image_size[1]}, 3] as "
            f"Arch.image_size in config.yaml beside it says, got {list(shape)}"
        )
    if dtype not in ("uint8", "float32"):
        raise RunError(f"{path}: expected input {IMAGE} of uint8 or float32, got {dtype}")
