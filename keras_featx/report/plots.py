"""Learning curves and panels of neighbours as PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
from matplotlib.figure import Figure

from keras_featx.data.outputs import write_bytes

RIGHT, WRONG, INK = "#1a7f37", "#cf222e", "#24292f"


@dataclass(frozen=True)
class Answer:
    """One query with its nearest gallery images, best first.

    Attributes:
        query: Image file.
        title: Its identity.
        images: Image files of the neighbours.
        titles: Their identities.
        similarities: Cosines.
    """

    query: str
    title: str
    images: Sequence[str]
    titles: Sequence[str]
    similarities: Sequence[float]


def learning_curves(history: Sequence[dict], path: Path, floor: float | None = None) -> None:
    """Draw loss, accuracy on training images, and retrieval on unseen identities, by epoch."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, accuracy, retrieval = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["loss"] for row in history], color=INK)
    loss.set_title("training loss")
    accuracy.plot(epochs, [100 * row["accuracy"] for row in history], color=INK)
    accuracy.set_title("training accuracy, without margin (%)")
    for key, style in (("recall@1", "-"), ("recall@5", "--"), ("map", ":")):
        points = [(row["epoch"], 100 * row[key]) for row in history if key in row]
        if points:
            retrieval.plot(*zip(*points, strict=True), style, marker="o", color=INK, label=key)
    if floor is not None:
        retrieval.axhline(100 * floor, color=WRONG, lw=1, label="recall@1 of pixels")
    retrieval.set_title("retrieval, unseen identities (%)")
    retrieval.set_ylim(0, 100)
    retrieval.legend(loc="lower right", fontsize=8, frameon=False)
    for axes in (loss, accuracy, retrieval):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.02)
    _save(figure, path)


def neighbour_panel(answers: Sequence[Answer], path: Path) -> None:
    """Draw each query beside its neighbours: right ones framed green, wrong ones red."""
    columns = 1 + max(len(answer.images) for answer in answers)
    figure = Figure(figsize=(1.5 * columns + 0.3, 1.75 * len(answers)), layout="constrained")
    grid = figure.subplots(len(answers), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, answer in zip(grid, answers, strict=True):
        _draw(row[0], answer.query, f"query: {answer.title}", INK)
        neighbours = zip(answer.images, answer.titles, answer.similarities, strict=True)
        for axes, (image, title, similarity) in zip(row[1:], neighbours, strict=False):
            right = title == answer.title
            mark = "\N{CHECK MARK}" if right else "\N{MULTIPLICATION X}"
            _draw(axes, image, f"{mark} {title} {similarity:.2f}", RIGHT if right else WRONG)
    _save(figure, path)


def _draw(axes, image: str, title: str, color: str) -> None:
    axes.set_axis_on()
    axes.imshow(matplotlib.image.imread(image))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=color, linewidth=2.5)
    short = title if len(title) <= 26 else f"{title[:25]}\N{HORIZONTAL ELLIPSIS}"
    axes.set_title(short, fontsize=6.5, color=color, pad=3)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_bytes(path, buffer.getbuffer())
