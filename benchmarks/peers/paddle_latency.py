"""Paddle Inference with oneDNN on PaddleClas' recognition network: SCALE PIXELS BATCH THREADS."""

import sys
import tempfile

import side_by_side

side_by_side.private_stdout()

from paddle_network import recognition_network  # noqa: E402 isort: skip
import numpy as np  # noqa: E402
import paddle  # noqa: E402
from paddle import inference  # noqa: E402


class Extractor(paddle.nn.Layer):
    """Backbone and neck, and the unit norm that its serving code computes."""

    def __init__(self, scale: str):
        super().__init__()
        self.model = recognition_network(scale)

    def forward(self, image):
        """From normalised NCHW to unit vectors."""
        return paddle.nn.functional.normalize(self.model(image, None)["features"], axis=1)


def main(scale: str, pixels: int, batch: int, threads: int) -> None:
    """Export, open, serve."""
    paddle.set_device("cpu")
    model = Extractor(scale)
    model.eval()
    folder = tempfile.mkdtemp()
    spec = [paddle.static.InputSpec([None, 3, pixels, pixels], "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec), f"{folder}/model")
    config = inference.Config(f"{folder}/model.pdmodel", f"{folder}/model.pdiparams")
    config.disable_gpu()
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(10)
    config.set_cpu_math_library_num_threads(threads)
    config.switch_ir_optim(True)
    config.enable_memory_optim()
    predictor = inference.create_predictor(config)
    entry = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])
    image = np.random.default_rng(0).normal(size=(batch, 3, pixels, pixels)).astype("float32")

    def run() -> None:
        entry.copy_from_cpu(image)
        predictor.run()
        result.copy_to_cpu()

    side_by_side.serve(
        lambda steps: side_by_side.time_steps(run, steps), paddlepaddle=paddle.__version__
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
