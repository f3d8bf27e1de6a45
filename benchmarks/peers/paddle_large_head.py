"""PaddleClas' dense ArcMargin head's training step as a worker: CLASSES RATE SIZE BATCH."""

import os
import sys
import sysconfig
import tarfile  # noqa: F401 (paddle 2.6 can die at import unless these two came first)
import zlib  # noqa: F401

import side_by_side

side_by_side.private_stdout()
sys.path.insert(0, os.path.join(sysconfig.get_path("purelib"), "paddleclas"))

import paddle  # noqa: E402
from ppcls.arch.gears.arcmargin import ArcMargin  # noqa: E402


def main(classes: str, rate: str, size: str, batch: str, *_: str) -> None:
    """Build, then serve. OMP_NUM_THREADS is set by the parent."""
    if float(rate) != 1:
        raise SystemExit("the reference has no sampled head")
    classes, size, batch = int(classes), int(size), int(batch)
    paddle.set_device("cpu")
    paddle.seed(0)
    paddle.set_flags({"FLAGS_use_mkldnn": True})
    head = ArcMargin(size, classes, margin=0.2, scale=30.0)
    optimizer = paddle.optimizer.Momentum(
        0.01, 0.9, parameters=head.parameters(), weight_decay=paddle.regularizer.L2Decay(1e-5)
    )
    embedding = paddle.randn([batch, size])
    embedding.stop_gradient = False
    label = paddle.randint(0, classes, [batch, 1])

    def train() -> None:
        loss = paddle.nn.functional.cross_entropy(head(embedding, label), label).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        embedding.clear_grad()
        float(loss)  # waits for the step to end

    def run(steps):
        side_by_side.reset_peak_memory()
        return side_by_side.time_steps(train, steps)

    side_by_side.serve(run, paddlepaddle=paddle.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
