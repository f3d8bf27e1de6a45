"""Our head's training step as a worker: CLASSES RATE SIZE BATCH RULE THREADS."""

import sys

import side_by_side

side_by_side.private_stdout()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_featx.heads import ArcMargin  # noqa: E402
from keras_featx.optimizers import rules  # noqa: E402


def main(
    classes: str, rate: str, size: str, batch: str, rule: str = "momentum", threads: str = "2"
) -> None:
    """Build, then serve."""
    classes, size, batch = int(classes), int(size), int(batch)
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    keras.utils.set_random_seed(0)
    head = ArcMargin(class_num=classes, margin=0.2, scale=30.0, sample_rate=float(rate))
    head.build((None, size))
    arguments = {"momentum": {"momentum": 0.9, "l2": 1e-5}, "sgd": {"momentum": 0.0}}[rule]
    optimizer = getattr(rules, rule)(0.01, **arguments)
    optimizer.build(head.trainable_variables)
    rng = np.random.default_rng(0)
    embedding = tf.constant(rng.normal(size=(batch, size)), tf.float32)
    label = tf.constant(rng.integers(0, classes, batch), tf.int32)

    @tf.function
    def train():
        weights = head.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(embedding)
            loss, _ = head(embedding, label, with_loss=True, training=True)
            loss = tf.reduce_mean(loss)
        gradient, *gradients = tape.gradient(loss, [embedding, *weights])
        optimizer.apply(gradients, weights)
        return loss, gradient

    def run(steps):
        side_by_side.reset_peak_memory()
        return side_by_side.time_steps(lambda: float(train()[0]), steps)

    side_by_side.serve(run, tensorflow=tf.__version__, keras=keras.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
