"""Answers of a gallery and scenes as PNG."""

import io
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_featx.errors import ConfigError
from keras_featx.report.plots import INK, RIGHT, WRONG

# Pixels of a query, or nothing; its answer; its name; whether it is known; and of each neighbour
# its pixels, or nothing, its title, its id, and whether it is of the identity of the answer. Titles
# and answers are short lines.
Row = tuple[np.ndarray | None, str, str, bool, Sequence[tuple[np.ndarray | None, str, str, bool]]]
# As many as a picture of a bearable height has.
MOST_ROWS = 200
_DPI, _FAINT = 130, "#59636e"
# Pixels of a picture's frame, between two, and of a row's head.
_TILE, _GAP, _HEAD = 190, 8, 40
# As the pages have them by day: report.css.
_COLOURS = dict(
    zip(
        [*(f"m{i}" for i in range(10)), "other"],
        "#332288 #cc6677 #117733 #3f9fd0 #882255 #b79a1f #44aa99 #aa4499 #777716 #d0661b "
        "#56616d".split(),
        strict=True,
    )
)  # fmt: skip


def panel(rows: Iterable[Row], count: int) -> bytes:
    """Each query beside its neighbours; those of the identity of the answer have a green frame.

    Args:
        rows: The queries.
        count: How many.

    Raises:
        ConfigError: If there are none, or more than ``MOST_ROWS``.
    """
    if not 0 < count <= MOST_ROWS:
        raise ConfigError(
            f"queries: expected 1 to {MOST_ROWS} for a PNG, got {count}; a page (.html) shows any "
            "number"
        )
    rows = list(rows)
    columns = 1 + max(len(row[-1]) for row in rows)
    axes = _canvas(columns * (_TILE + _GAP) + _GAP, count * (_TILE + _HEAD))
    for i, (pixels, answer, name, known, neighbours) in enumerate(rows):
        corner = _GAP, i * (_TILE + _HEAD) + _HEAD - _GAP
        _tile(axes, corner, pixels, f"query: {answer}", name, INK if known else WRONG)
        for j, (own, title, item, same) in enumerate(neighbours, 1):
            corner = _GAP + j * (_TILE + _GAP), corner[1]
            title = f"\N{CHECK MARK} {title}" if same else title
            _tile(axes, corner, own, title, item, RIGHT if same else _FAINT)
    return _png(axes.figure)


def _canvas(width: float, height: float):
    """Axes of so many pixels, from the top left."""
    figure = Figure(figsize=(max(width, 1) / _DPI, max(height, 1) / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto", autoscale_on=False)
    return axes


def _tile(axes, corner, pixels: np.ndarray | None, title: str, name: str, colour: str) -> None:
    """A picture in a frame; without one, its name."""
    left, top = corner
    middle, words = left + _TILE / 2, {"ha": "center", "parse_math": False}
    axes.text(middle, top - 5, title, fontsize=6.5, color=colour, va="bottom", **words)
    axes.add_patch(Rectangle(corner, _TILE, _TILE, fill=False, ec=colour, lw=2))
    if pixels is None:
        axes.text(
            middle, top + _TILE / 2, short(name), fontsize=6, color=_FAINT, va="center", **words
        )
        return
    high, wide = (_TILE * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    left, top = left + (_TILE - wide) / 2, top + (_TILE - high) / 2
    axes.imshow(pixels, extent=(left, left + wide, top + high, top), aspect="auto")


def scene(pixels: np.ndarray, spots: Sequence[tuple[tuple[int, int, int, int], str, str]]) -> bytes:
    """A picture with boxes.

    Args:
        pixels: Of the picture.
        spots: Of each box left, top, right and bottom; what it says; and the class of its colour.
            The first is on top.
    """
    height, width = pixels.shape[:2]
    scale = min(1600 / max(height, width), max(1.0, 900 / max(height, width)))
    axes = _canvas(scale * width, scale * height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.imshow(pixels, extent=(0, width, height, 0), aspect="auto")
    for (left, top, right, bottom), said, colour in reversed(spots):
        dashed = "--" if colour == "other" else "-"
        corner, size = (left, top), (right - left, bottom - top)
        for ink, thickness, dashes in (("white", 3.5, "-"), (_COLOURS[colour], 1.8, dashed)):
            axes.add_patch(Rectangle(corner, *size, fill=False, ec=ink, lw=thickness, ls=dashes))
        # Inside the box, and from the side that has room for it.
        at, side = (right, "right") if left + right > 1.5 * width else (left, "left")
        axes.text(
            at, top, said, va="top", ha=side, fontsize=8, color="white", parse_math=False,
            bbox={"facecolor": _COLOURS[colour], "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    return _png(axes.figure)


def short(words: str, most: int = 18) -> str:
    """Any text on one short line."""
    words = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    return words if len(words) <= most else f"{words[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; what the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
