"""Charts of a gallery: sizes of identities, cosines of items, the map of embeddings."""

from collections.abc import Callable

import numpy as np

from keras_featx.labelled import Labelled
from keras_featx.report.charts import (
    Axis,
    Series,
    axis_of,
    chart,
    dots,
    legend,
    lines,
    note,
    stairs,
)
from keras_featx.report.gallery_view import EDGES, GalleryView, Spread, histogram
from keras_featx.report.page import facts, text
from keras_featx.report.spread import plane
from keras_featx.report.wording import figure, number

# Sizes of identities up to which each has a bar of its own.
_SINGLE = 40
_COSINE = "{:.2g}".format


def size_edges(largest: int) -> np.ndarray:
    """Edges of the bars for sizes from 1 to the largest: one each, or 1, 2, 3-4, 5-8, 9-16, ...

    Example:
        >>> from keras_featx.report.gallery_charts import size_edges
        >>> size_edges(3).tolist(), size_edges(50).tolist()
        ([0.5, 1.5, 2.5, 3.5], [0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5])
    """
    if largest <= _SINGLE:
        return np.arange(largest + 1) + 0.5
    powers = 2 ** np.arange(int(np.ceil(np.log2(largest))) + 1)
    return np.concatenate([[0.5], powers + 0.5])


def sizes(view: GalleryView) -> str:
    """How many identities have how many items."""
    largest = int(view.counts.max())
    edges = size_edges(largest)
    heights = np.histogram(view.counts, edges)[0]
    x = Axis(float(edges[0]), float(edges[-1]), "items of an identity", log=largest > _SINGLE)
    y = Axis(0, float(heights.max()) * 1.06, "identities in a bar")
    bars = Series("identities", *stairs(edges, heights), area=True)
    counts = view.counts
    lowest, highest = (number(int(count)) for count in (counts.min(), counts.max()))
    said = facts(
        [
            ("items of an identity", lowest if lowest == highest else f"{lowest} to {highest}"),
            ("median, mean", f"{np.median(counts):g}, {counts.mean():.3g}"),
            ("identities with one item", number(int((counts == 1).sum()))),
        ]
    )
    drawn = lines([bars], x, y, "items of identities")
    return f'<div class="beside"><div>{drawn}</div><div>{said}</div></div>'


def similarities(view: GalleryView, found: Spread, threshold: float | None) -> str:
    """Histograms of the cosines of items, and how many are nearer to another identity."""
    kinds = {
        "an item and each other of its identity": found.within,
        "an item and the nearest of another identity": histogram(found.other),
        "an item and the nearest of its identity": histogram(found.own),
    }
    kinds = {name: counts for name, counts in kinds.items() if counts.any()}
    if not kinds:
        return "<p>Not drawn: there is one item.</p>"
    filled = np.flatnonzero(sum(kinds.values()))
    # Four bars are one where cosines are far apart.
    width = 1 if filled[-1] - filled[0] < 100 else 4
    first, last = filled[0] // width * width, -(-(filled[-1] + 1) // width) * width
    edges = EDGES[first : last + 1 : width]
    drawn = []
    for style, (name, counts) in enumerate(kinds.items()):
        shares = 100 * counts[first:last].reshape(-1, width).sum(1) / counts.sum()
        drawn.append(Series(name, *stairs(edges, shares), style, area=style < 2))
    marks = [] if threshold is None else [(threshold, "threshold")]
    reach = [*edges.tolist(), *(value for value, _ in marks)]
    x = Axis(min(reach), max(reach), "cosine", show=_COSINE)
    y = Axis(0, 1.06 * max(max(one.y) for one in drawn), "in a bar, % of their kind")
    shown = lines(drawn, x, y, "cosines of items", marks=marks) + legend(drawn)
    said = _confusable(view, found, threshold)
    return f'<div class="beside"><div>{shown}</div><div>{said}</div></div>'


def _confusable(view: GalleryView, found: Spread, threshold: float | None) -> str:
    """What the cosines mean for who searches."""
    mates, others = np.isfinite(found.own), np.isfinite(found.other)
    both = mates & others
    nearer = both & (found.other > found.own)
    rows = [("items with another of their identity", number(int(mates.sum())))]
    if both.any():
        rows.append(("of these, nearer to another identity", _share(nearer.sum(), both.sum())))
    if threshold is not None:
        if others.any():
            reaching = (found.other >= threshold).sum()
            rows.append(
                ("at or above the threshold to another identity", _share(reaching, others.sum()))
            )
        if mates.any():
            below = (found.own[mates] < threshold).sum()
            rows.append(("below the threshold to their own", _share(below, mates.sum())))
    sampled = (
        "All items are compared with all others."
        if len(found.rows) == len(view)
        else f"A seeded sample of {len(found.rows):,} items is compared with all {len(view):,}."
    )
    return (
        "<p>Each item is looked up among the others, as a new image of its identity might be: the "
        "farther apart the two curves of the nearest, the surer the answers.</p>"
        f'{facts(rows)}<p class="soft">{sampled} A pair counts for each of its items.</p>'
    )


def _share(count: int, total: int) -> str:
    return f"{number(int(count))} ({figure(count / total)})"


def embedding_map(view: GalleryView, picture: Callable) -> str:
    """Embeddings on two principal components."""
    none = Labelled(view.vectors[:0], view.labels[:0])
    found = plane(none, Labelled(view.vectors, view.labels))
    colour = {int(label): i for i, label in enumerate(found.coloured)}
    labels = view.labels[found.rows]
    kinds = [f"m{colour[label]}" if label in colour else "other" for label in labels.tolist()]
    titles = [
        f"{view.names[label]}: {view.item(place)[0]}"
        for label, place in zip(labels.tolist(), found.rows.tolist(), strict=True)
    ]
    x = axis_of(found.x, "first component", show=_COSINE)
    y = axis_of(found.y, "second component", show=_COSINE)
    height, names = 330, []
    inside = dots(found.x, found.y, x, y, kinds, titles, height)
    for label, i in colour.items():
        own = labels == label
        example = picture(*view.item(int(view.firsts[label])))
        names.append(
            f'<li><b class="m{i}">{i + 1}</b>{example}<span>{text(view.names[label])}</span>'
            f'<span class="soft">{number(int(view.counts[label]), "item")}</span></li>'
        )
        inside += note(np.median(found.x[own]), np.median(found.y[own]), x, y, i + 1, height)
    drawn = "" if len(found.rows) == len(view) else ", a seeded sample,"
    return (
        f'<div class="beside"><div>{chart(x, y, "map of embeddings", inside, height)}</div><div>'
        f"<p>The two components in which embeddings vary most: {100 * found.share:.0f} % of their "
        "variance. What lies together here may be apart in the other components.</p>"
        f'<ol class="names">{"".join(names)}</ol><p class="soft">{number(len(found.rows), "item")}'
        f"{drawn} of {len(view):,}. Coloured, with a number where their middle is: the "
        f"{number(len(colour), 'identity', 'identities')} with the most items; grey: all others."
        "</p></div></div>"
    )
