"""A sheet of training images: as evaluation sees them, and as training draws them."""

import io
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_featx.data import faults, pipeline
from keras_featx.data.outputs import write_bytes
from keras_featx.data.samplers import Order
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError
from keras_featx.sections import Config
from keras_featx.training_data import load_training_samples

# From a row of the list and a number (for most samplers, of the pass) to the image training sees.
Sample = Callable[[int, int], np.ndarray]

INK, FAINT, PAPER = "#24292f", "#59636e", "#eff2f5"
# In pixels: left of all images and above them, between two, after the first of a row, around.
MARGIN, HEADER, GAP, GUTTER, EDGE = 196, 42, 6, 22, 16
DPI = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Original:
    """A training image as evaluation sees it.

    Attributes:
        row: In the list, from 0.
        title: Its class.
        file: Where it is.
        image: uint8 ``(height, width, 3)``.
    """

    row: int
    title: str
    file: str
    image: np.ndarray


def preview(
    config: Config, output: str | os.PathLike = "preview.png", samples: int = 8, draws: int = 7
) -> dict[str, Any]:
    """Write a PNG with some training images and their augmented versions.

    The versions are those of the first passes of a training with this config: same list, same
    seed, same operations.

    Args:
        config: ``DataLoader.Train`` names the list and its ``transform_ops``.
        output: The PNG file to write.
        samples: Images, evenly spread over the list; all where there are fewer.
        draws: Versions of each, beside the image itself.

    Returns:
        ``{"output": ..., "images": ..., "draws": ...}``.

    Raises:
        ConfigError: Without a training list, or on impossible numbers.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import os, tempfile
        >>> from keras_featx.preview import preview
        >>> from keras_featx.quickstart import quickstart_config
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = os.path.join(folder, "preview.png")
        ...     preview(quickstart_config(), file, samples=2, draws=3)["images"]
        2
    """
    for name, value in (("samples", samples), ("draws", draws)):
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    output = Path(output)
    if output.suffix.lower() != ".png":
        raise ConfigError(f"output: expected a name ending in .png, got {str(output)!r}")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ConfigError(f"output: expected a folder that can be written, got {output.parent}")
    listed = load_training_samples(config)
    rows = np.linspace(0, len(listed) - 1, min(samples, len(listed))).round().astype(int).tolist()
    try:
        sample = _sample_of_training(config, listed, rows, draws)
        originals = _originals(config, listed, rows)
    except tf.errors.OpError as error:
        raise faults.explain(error, listed.take(rows)) from None
    write_bytes(output, sheet(originals, sample, draws))
    log.info("%d images, %d draws of each: %s", len(rows), draws, output)
    return {"output": str(output), "images": len(rows), "draws": draws}


def _sample_of_training(config: Config, listed: Samples, rows: Sequence[int], draws: int) -> Sample:
    """The images of the training pipeline, with an order whose batches are the rows asked for."""
    places = tf.constant(rows, tf.int64)
    order = Order(len(rows), 1, lambda step: (places, tf.fill([len(rows)], step)))
    section = config.DataLoader.Train.dataset
    batches = pipeline.train_dataset(
        listed,
        order,
        config.Arch,
        section.transform_ops,
        seed=config.Global.seed,
        first_step=0,
        last_step=draws,
        batch_transform_ops=section.batch_transform_ops,
    )
    seen = [inputs["image"].numpy() for inputs, _ in batches]
    return lambda row, number: seen[number][rows.index(row)]


def _originals(config: Config, listed: Samples, rows: list[int]) -> list[Original]:
    shown = listed.take(rows)
    size, preprocess = config.Arch.image_size, config.Arch.Preprocess
    pixels = next(iter(pipeline.image_dataset(shown, size, preprocess, len(rows)))).numpy()
    originals = []
    for i, row in enumerate(rows):
        label = int(listed.labels[row])
        title = listed.names[label] if listed.names else f"class {label}"
        image = pixels[i] if listed.turns is None else np.rot90(pixels[i], listed.turns[row])
        originals.append(Original(row, title, "/".join(Path(listed.paths[row]).parts[-2:]), image))
    return originals


def sheet(originals: Sequence[Original], sample: Sample, draws: int) -> bytes:
    """Draw the sheet: a row for each image, itself first.

    Args:
        originals: The images, all of one size.
        sample: Gives the augmented ones, uint8 ``(height, width, 3)``, for numbers from 0.
        draws: How many of each.

    Returns:
        A PNG file.
    """
    size = originals[0].image.shape[:2]
    scale = _shown(size)
    height, width = (round(scale * side) for side in size)
    how = "nearest" if scale >= 1 else "hanning"  # enlarged pixels stay what they are
    columns = [MARGIN, *(MARGIN + width + GUTTER + k * (width + GAP) for k in range(draws))]
    total_width = columns[-1] + width + EDGE
    total_height = HEADER + len(originals) * (height + GAP) - GAP + EDGE
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    text = {"parse_math": False, "color": INK, "fontsize": 9}
    axes.text(columns[0], HEADER - 12, "as evaluated", **text)
    axes.text(columns[1], HEADER - 12, "as trained on", **text)
    for i, original in enumerate(originals):
        top = HEADER + i * (height + GAP)
        tiles = [original.image, *(sample(original.row, number) for number in range(draws))]
        for left, tile in zip(columns, tiles, strict=True):
            extent = (left, left + width, top + height, top)
            axes.imshow(tile, extent=extent, interpolation=how)
        middle = top + height / 2
        title, file = _short(original.title, 20), _short(original.file[::-1], 26)[::-1]
        axes.text(MARGIN - 14, middle - 9, title, ha="right", va="center", weight="bold", **text)
        faint = {**text, "color": FAINT, "fontsize": 7.5}
        axes.text(MARGIN - 14, middle + 9, file, ha="right", va="center", **faint)
    axes.set_xlim(0, total_width)
    axes.set_ylim(total_height, 0)
    axes.set_aspect("auto")
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER)
    return buffer.getvalue()


def _shown(size: tuple[int, int]) -> float:
    """How much larger a tile is than its image: a whole number, where it is not smaller."""
    longest = max(size)
    return max(1, round(144 / longest)) if longest <= 256 else 256 / longest


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
