"""Our training input pipeline as a worker: FOLDER BATCH PIXELS CORES [VARIANT].

VARIANT is `plain` (the default), `reduced` (decoding at a reduced size), `packed` (from TFRecord
shards) or `memory` (`cache: memory`, images decoded once). With CORES 1 the process, with all its
threads, is held to one core.
"""

import os
import sys
import tempfile

import side_by_side

side_by_side.private_stdout()
if int(sys.argv[4]) == 1:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started

import tensorflow as tf  # noqa: E402

from keras_featx.data import lists, memory, pack, packed, pipeline, samplers  # noqa: E402
from keras_featx.sections import ArchSection, Component, PreprocessSection  # noqa: E402

VARIANTS = ("plain", "reduced", "packed", "memory")


def main(folder: str, batch: int, pixels: int, cores: int, variant: str = "plain") -> None:
    """Read the list, then serve: a run is a new dataset, read from its first batch to its last."""
    if variant not in VARIANTS:
        sys.exit(f"VARIANT: expected one of {VARIANTS}, got {variant!r}")
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    samples = lists.imagenet_list(
        image_root=folder, cls_label_path=os.path.join(folder, "list.txt")
    )
    preprocess = PreprocessSection(reduced_decoding=variant == "reduced")
    if variant == "packed":
        shards = tempfile.TemporaryDirectory()  # removed when the process ends
        pack.pack(samples, shards.name)
        samples = packed.packed(folder=shards.name)
    elif variant == "memory":
        samples = memory.decoded(samples, preprocess)
    order = samplers.shuffle(samples, 0, batch_size=batch)
    arch = ArchSection(image_size=(pixels, pixels), Preprocess=preprocess)
    ops = (Component(name="RandomResizedCrop"), Component(name="RandomFlip"))

    def run(steps: int) -> dict:
        count = side_by_side.LEAD + steps + side_by_side.TAIL
        dataset = pipeline.train_dataset(
            samples, order, arch, ops, seed=0, first_step=0, last_step=count
        )
        return side_by_side.time_stream(dataset, steps)

    side_by_side.serve(run, tensorflow=tf.__version__, variant=variant)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
