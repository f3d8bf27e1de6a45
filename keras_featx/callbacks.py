"""What happens during `fit` besides the steps."""

import csv
import io
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
from tqdm import tqdm

from keras_featx.data import outputs
from keras_featx.errors import RunError

log = logging.getLogger(__name__)


class MarginWarmup(keras.callbacks.Callback):
    """Lets the head's margin grow linearly from 0, a pure function of the step.

    Args:
        head: A head with a ``margin_factor`` weight.
        start: Step up to which the margin is 0.
        end: Step from which it is whole.
        steps_per_epoch: Steps per epoch.
    """

    def __init__(self, head: keras.layers.Layer, start: float, end: float, steps_per_epoch: int):
        super().__init__()
        self.head, self.start, self.end = head, start, end
        self.steps_per_epoch = steps_per_epoch
        self.first = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.first = epoch * self.steps_per_epoch

    def on_train_batch_begin(self, batch, logs=None):
        length = max(self.end - self.start, 1e-9)
        factor = min(max((self.first + batch - self.start) / length, 0.0), 1.0)
        self.head.margin_factor.assign(factor)


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run at the first loss that is not finite, naming the step and its images.

    Args:
        batch_paths: From a step to the paths of its batch.
        steps_per_epoch: Steps per epoch.
    """

    def __init__(self, batch_paths: Callable[[int], list[str]], steps_per_epoch: int):
        super().__init__()
        self.batch_paths, self.steps_per_epoch = batch_paths, steps_per_epoch
        self.first = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.first = epoch * self.steps_per_epoch

    def on_train_batch_end(self, batch, logs=None):
        # The logged loss is the epoch's running mean: finite until the first that is not.
        if not math.isfinite(logs["loss"]):
            step = self.first + batch
            log.error("images of step %d:\n%s", step, "\n".join(self.batch_paths(step)))
            raise RunError(
                f"the loss is {logs['loss']} at step {step} (epoch {step // self.steps_per_epoch}, "
                "both from 0): expected a finite number; a lower Optimizer.lr or a clip_norm may "
                f"help. Its images are in the log, the first is {self.batch_paths(step)[0]}"
            )


class Progress(keras.callbacks.Callback):
    """A bar on a terminal, a log line every ``every`` steps in any case.

    Args:
        epochs: Epochs of the run.
        steps_per_epoch: Steps per epoch.
        every: Steps between log lines.
        batch_size: Images per step.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, every: int, batch_size: int):
        super().__init__()
        self.epochs = epochs
        self.steps_per_epoch, self.every, self.batch_size = steps_per_epoch, every, batch_size
        self.bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.began = self.since = time.perf_counter()
        self.bar = tqdm(
            total=self.steps_per_epoch,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            disable=not sys.stderr.isatty(),
            leave=False,
            file=sys.stderr,
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if (batch + 1) % self.every == 0:
            seconds = time.perf_counter() - self.since
            self.since = time.perf_counter()
            log.info(
                "epoch %d/%d step %d/%d: %s, %.1f images/s",
                self.epoch + 1,
                self.epochs,
                batch + 1,
                self.steps_per_epoch,
                " ".join(f"{k} {v:.4f}" for k, v in losses_and_accuracy(logs).items()),
                self.every * self.batch_size / seconds,
            )

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        seconds = time.perf_counter() - self.began
        logs["images_per_second"] = round(self.steps_per_epoch * self.batch_size / seconds, 2)


def losses_and_accuracy(logs: dict) -> dict:
    """The loss, each of several losses, and the accuracy where there is a head, by short names."""
    named = {k: v for k, v in logs.items() if k.endswith("_loss") or k == "loss"}
    named = {k.removesuffix("_loss") if k != "loss" else k: v for k, v in named.items()}
    if "correct_accuracy" in logs:
        named["accuracy"] = logs["correct_accuracy"]
    return named


class EpochEnd(keras.callbacks.Callback):
    """Calls ``function(epochs_done, logs)`` after each epoch.

    ``logs`` has what the callbacks before this one added.
    """

    def __init__(self, function: Callable[[int, dict], None]):
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch, logs=None):
        self.function(epoch + 1, dict(logs))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write the whole history as CSV: one row an epoch, the same columns from the first on."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    outputs.write_bytes(path, text.getvalue().encode())
