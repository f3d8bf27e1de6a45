"""As many multiply-adds as a network has, in one bare matrix product: MACS BATCH THREADS.

What a processor can do at best with dense float32 work of this size.
"""

import sys

import side_by_side

side_by_side.private_stdout()

import tensorflow as tf  # noqa: E402

INNER, COLUMNS = 512, 512


def main(macs: int, batch: int, threads: int) -> None:
    """Build, then serve."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows = max(1, round(macs * batch / (INNER * COLUMNS)))
    left, right = tf.random.normal((rows, INNER)), tf.random.normal((INNER, COLUMNS))

    def run() -> None:
        tf.linalg.matmul(left, right).numpy()

    side_by_side.serve(lambda steps: side_by_side.time_steps(run, steps), tensorflow=tf.__version__)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
