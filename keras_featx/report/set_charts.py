"""The similarities of one set's pairs, and the map of its embeddings."""

import numpy as np

from keras_featx.errors import ConfigError
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
from keras_featx.report.page import text
from keras_featx.report.spread import PairCurves, pair_curves, plane
from keras_featx.report.views import View, file_name
from keras_featx.report.wording import number

_PERCENT = "{:.3g} %".format
_COSINE = "{:.2g}".format


def similarities(view: View) -> str:
    """Histograms of both kinds of pairs, and what a threshold lets through."""
    try:
        found = pair_curves(view.ranked.query, view.ranked.gallery, view.matches)
    except ConfigError as error:
        return f"<p>Not drawn: {text(error)}.</p>"
    low, high = float(found.edges[0]), float(found.edges[-1])
    x = Axis(low, high, "cosine", show=_COSINE)
    marks = [(threshold, f"FAR {100 * rate:g} %") for rate, (threshold, _) in found.points.items()]
    kinds = [
        Series(name, *stairs(found.edges, 100 * counts / counts.sum()), style, area=True)
        for name, counts, style in (
            ("pairs of one identity", found.genuine, 0),
            ("pairs of two identities", found.impostor, 1),
        )
    ]
    highest = max(max(one.y) for one in kinds)
    share = Axis(0, highest * 1.06, "pairs in a bar, % of their kind")
    true_rate = Axis(0, 100, "true accept rate", show=_PERCENT)
    at = Axis(low, high, "threshold: cosine", show=_COSINE)
    seen = found.false_rate > 0
    accepted = Series("true accepts", found.thresholds, 100 * found.true_rate, 0)
    let_in = Series("false accepts", found.thresholds[seen], 100 * found.false_rate[seen], 1)
    lowest = min(10 ** np.floor(np.log10(let_in.y[-1])), 1)
    false_rate = Axis(lowest, 100, "false accept rate, logarithmic", True, _PERCENT)
    cells = (
        lines(kinds, x, share, "similarities of pairs", marks=marks) + legend(kinds),
        _thresholds(found),
        lines([accepted], at, true_rate, "true accept rate by threshold", marks=marks),
        lines([let_in], at, false_rate, "false accept rate by threshold", marks=marks),
    )
    return f'<div class="beside">{"".join(f"<div>{cell}</div>" for cell in cells)}</div>'


def _thresholds(found: PairCurves) -> str:
    impostors = int(found.impostor.sum())
    rows = "".join(
        f'<tr><th>{100 * rate:g} %</th><td class="n">{threshold:.4f}</td>'
        f'<td class="n"><b>{100 * accepted:.1f} %</b></td></tr>'
        for rate, (threshold, accepted) in found.points.items()
    )
    few = "".join(
        f"<p>{100 * rate:g} % of so few pairs of two identities is less than one: its threshold is "
        "above all of them.</p>"
        for rate in found.points
        if rate * impostors < 1
    )
    return (
        "<p>Is another image of the same identity? Whoever decides by a threshold accepts the "
        "pairs at or above it: right ones (true accepts), and wrong ones (false accepts).</p>"
        "<table><thead><tr><th>false accept rate (FAR)</th><th>lowest threshold</th>"
        f"<th>true accept rate</th></tr></thead><tbody>{rows}</tbody></table>{few}"
        f'<p class="soft">Counted: {number(int(found.genuine.sum()), "pair")} of one identity, '
        f"{number(impostors, 'pair')} of two, without those that rankings exclude; the latter of "
        f"{number(found.queries, 'query', 'queries')}. At and above a threshold lie no more of the "
        "pairs of two identities than its rate. They fit these identities: others want their "
        "own.</p>"
    )


def embedding_map(view: View) -> str:
    """Embeddings on two principal components."""
    query, gallery = view.ranked.query, view.ranked.gallery
    found = plane(query, gallery)
    labels = np.concatenate([query.labels, gallery.labels])
    colour = {int(label): i for i, label in enumerate(found.coloured)}
    kinds, titles = [], []
    for row in found.rows.tolist():
        part, place = ("query", row)
        if row >= len(query.labels):
            part, place = "gallery", row - len(query.labels)
        label = int(labels[row])
        kind = f"m{colour[label]}" if label in colour else "other"
        kinds.append(kind if part == "query" else f"{kind} square")
        name = file_name(getattr(view.found, part), place)
        titles.append(f"{view.name(label)}, {part}: {name}")
    x = axis_of(found.x, "first component", show=_COSINE)
    y = axis_of(found.y, "second component", show=_COSINE)
    height = 330
    inside = dots(found.x, found.y, x, y, kinds, titles, height)
    names = []
    for label, i in colour.items():
        own = labels[found.rows] == label
        names.append(
            f'<li><b class="m{i}">{i + 1}</b>{view.example(label)}{text(view.name(label))}'
            f'<span class="soft">{number(np.count_nonzero(labels == label), "image")}</span></li>'
        )
        middle = np.median(found.x[own]), np.median(found.y[own])
        inside += note(*middle, x, y, i + 1, height)
    drawn = "" if len(found.rows) == len(labels) else ", a seeded sample,"
    return (
        f'<div class="beside"><div>{chart(x, y, "map of embeddings", inside, height)}</div><div>'
        f"<p>The two components in which embeddings vary most: {100 * found.share:.0f} % of their "
        "variance. What lies together here may be apart in the other components.</p>"
        f'<ol class="names">{"".join(names)}</ol>'
        f'<p class="soft">{number(len(found.rows), "image")}{drawn} of {len(labels):,}: circles '
        f"are queries, squares of the gallery. Coloured, with a number where their middle is: the "
        f"{len(colour)} identities with the most images; grey: all others.</p></div></div>"
    )
