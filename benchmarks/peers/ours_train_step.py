"""Our training step as a worker: SCALE PIXELS BATCH THREADS."""

import sys

import side_by_side

side_by_side.private_stdout()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_featx import models  # noqa: E402
from keras_featx.sections import (  # noqa: E402
    ArchSection,
    Component,
    Config,
    OptimizerSection,
)
from keras_featx.training import compile_classifier  # noqa: E402


def main(scale: float, pixels: int, batch: int, threads: int) -> None:
    """Build, then serve."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(0)
    arch = ArchSection(
        image_size=(pixels, pixels),
        Backbone=Component(name="LCNet", args={"scale": scale}),
        Neck=Component(name="Dense", args={"embedding_size": 512}),
        Head=Component(name="ArcMargin", args={"class_num": 1000, "margin": 0.2, "scale": 30.0}),
    )
    optimizer = OptimizerSection(
        name="Momentum",
        lr=Component(name="Constant", args={"learning_rate": 0.01}),
        regularizer=Component(name="L2", args={"coeff": 1e-5}),
    )
    classifier = models.build_classifier(models.build_extractor(arch), models.build_head(arch))
    compile_classifier(classifier, Config(Arch=arch, Optimizer=optimizer), steps_per_epoch=100)

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, pixels, pixels, 3), np.uint8)
    label = rng.integers(0, 1000, (batch,)).astype("int32")
    example = ({"image": image, "label": label}, {"logits": label, "scores": label})
    batches = iter(tf.data.Dataset.from_tensors(example).repeat())
    classifier.make_train_function()

    def train() -> None:
        logs = classifier.train_function(batches)
        tf.nest.map_structure(np.asarray, logs)  # waits for the step to end

    side_by_side.serve(
        lambda steps: side_by_side.time_steps(train, steps),
        tensorflow=tf.__version__,
        keras=keras.__version__,
    )


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
