"""PaddleClas' training step as a worker: SCALE PIXELS BATCH THREADS."""

import os
import sys

import side_by_side

side_by_side.private_stdout()
os.environ["FLAGS_use_mkldnn"] = "1"

from paddle_network import recognition_network  # noqa: E402 isort: skip
import paddle  # noqa: E402


def main(scale: str, pixels: int, batch: int, threads: int) -> None:
    """Build, then serve. OMP_NUM_THREADS is set by the parent."""
    paddle.set_device("cpu")
    paddle.seed(0)
    paddle.set_flags({"FLAGS_use_mkldnn": True})
    model = recognition_network(scale)
    model.train()
    optimizer = paddle.optimizer.Momentum(
        0.01, 0.9, parameters=model.parameters(), weight_decay=1e-5
    )
    image = paddle.randn([batch, 3, pixels, pixels])
    label = paddle.randint(0, 1000, [batch, 1])

    def train() -> None:
        logits = model(image, label)["logits"]
        loss = paddle.nn.functional.cross_entropy(logits, label).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        float(loss)  # waits for the step to end

    side_by_side.serve(
        lambda steps: side_by_side.time_steps(train, steps),
        paddlepaddle=paddle.__version__,
        mkldnn=paddle.get_flags("FLAGS_use_mkldnn")["FLAGS_use_mkldnn"],
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
