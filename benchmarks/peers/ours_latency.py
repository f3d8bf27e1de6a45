"""One of our artefacts in its runtime as a worker: KIND FILE PIXELS BATCH THREADS.

KIND is `saved_model`, `tflite`, `onnx` or `openvino` (of the ONNX file).
"""

import sys

import side_by_side

side_by_side.private_stdout()

import numpy as np  # noqa: E402


def saved_model(file: str, image: np.ndarray, threads: int):
    """TensorFlow, as a server calls it: the graph of a signature by the names of its tensors."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1
    )
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], file)
    signature = loaded.signature_def["embed_images"]
    run = session.make_callable(
        signature.outputs["embedding"].name, [signature.inputs["image"].name]
    )
    return lambda: run(image), {"tensorflow": tf.__version__}


def tflite(file: str, image: np.ndarray, threads: int):
    """LiteRT; a batch is so many calls, as its files have a batch of one."""
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file, num_threads=threads)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run():
        for one in image:
            interpreter.set_tensor(entry["index"], one[None])
            interpreter.invoke()
            interpreter.get_tensor(result["index"])

    return run, {"ai-edge-litert": ai_edge_litert.__version__}


def onnx(file: str, image: np.ndarray, threads: int):
    """ONNX Runtime."""
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads, how.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, how, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image}), {"onnxruntime": onnxruntime.__version__}


def openvino(file: str, image: np.ndarray, threads: int):
    """OpenVINO on the same ONNX file, in float32."""
    import openvino

    how = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    model = core.read_model(file)
    model.reshape(list(image.shape))  # with a free batch it is slower
    compiled = core.compile_model(model, "CPU", how)
    request = compiled.create_infer_request()
    return lambda: request.infer([image]), {"openvino": openvino.__version__}


def main(kind: str, file: str, pixels: int, batch: int, threads: int) -> None:
    """Open, then serve."""
    image = np.random.default_rng(0).integers(0, 256, (batch, pixels, pixels, 3), np.uint8)
    run, versions = globals()[kind](file, image, threads)
    side_by_side.serve(lambda steps: side_by_side.time_steps(run, steps), **versions)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
