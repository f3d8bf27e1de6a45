"""The figures of one set, what it finds, and where it errs."""

import numpy as np

from keras_featx.report.charts import range_bar
from keras_featx.report.page import facts, text
from keras_featx.report.panels import Confusion, confusions, surest
from keras_featx.report.views import NEIGHBOURS, View, file_name
from keras_featx.report.wording import figure, interval, metric_words, number

PANELS, CONFUSED, WEAKEST = 8, 8, 12

RIGHT, WRONG = "\N{CHECK MARK}", "\N{MULTIPLICATION X}"


def figures(view: View) -> str:
    """All metrics, and what was counted and left out."""
    result = view.found.result
    averaged = result.class_averaged()
    rows = []
    for name in result.per_query:
        title, meaning = metric_words(name)
        low, high = result.intervals.get(name, (None, None))
        bounds = "no interval" if low is None else interval(low, high)
        bar = range_bar(result[name], low, high) if 0 <= result[name] <= 1 else ""
        rows.append(
            f"<tr><th>{text(title)}<small>{text(meaning)}</small></th>"
            f'<td class="n"><b>{figure(result[name])}</b></td>'
            f'<td class="n">{bounds}{bar}</td><td class="n">{figure(averaged[name])}</td></tr>'
        )
    counted = [
        ("queries measured", number(len(result.scored))),
        *((f"queries left out: {reason}", number(n)) for reason, n in result.left_out.items()),
        ("identities", number(len(np.unique(result.labels)))),
        ("gallery images", number(result.gallery)),
        ("excluded entries, all rankings", number(result.excluded)),
        *((name, f"{v:.4f}" if isinstance(v, float) else v) for name, v in result.more.items()),
    ]
    return (
        "<table><thead><tr><th>figure</th><th>mean of queries</th><th>95 % interval</th>"
        f"<th>mean of identities</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"{facts(counted)}"
        '<p class="soft">Intervals are of 1,000 resamples of the identities, each with all its '
        "queries: what another set of identities might have given.</p>"
    )


def panels(view: View) -> tuple[str, str]:
    """Pictures of queries that are surely right, and of those that are surely wrong."""
    labels, nearest = view.ranked.query.labels, view.similarities[:, 0]
    scored, right = view.scored, view.right
    ranked_by = (
        ""
        if view.ranked.distances is None
        else " They are ranked by the distances of Metric.Ranking; the numbers are cosines."
    )
    best = surest(right, nearest, labels, PANELS)
    worst = surest(scored & ~right, nearest, labels, PANELS)
    found = (
        f'<p class="soft">Of {number(int(right.sum()), "query", "queries")} whose nearest image is '
        "of their identity, those with the highest similarity to it; of each identity the first. "
        f"Each with its {NEIGHBOURS} nearest images and their similarity (cosine).{ranked_by}</p>"
        f'<div class="answers">{"".join(_answer(view, row, NEIGHBOURS) for row in best)}</div>'
    )
    wrong = int((scored & ~right).sum())
    if not wrong:
        return found, "<p>No query errs: the nearest image of each is of its identity.</p>"
    missed = (
        f'<p class="soft">Of {number(wrong, "query", "queries")} whose nearest image is of another '
        "identity, those with the highest similarity to it; of each identity the first. Where none "
        f"of the {NEIGHBOURS} is right, the first right image stands at the end, with its rank."
        f"{ranked_by}</p>"
        f'<div class="answers">{"".join(_answer(view, row, NEIGHBOURS + 1) for row in worst)}</div>'
    )
    return found, missed


def _answer(view: View, row: int, columns: int) -> str:
    query, labels = view.ranked.query, view.ranked.gallery.labels
    own = query.labels[row]
    shown = [
        _neighbour(view, int(entry), float(value), labels[entry] == own, view.name(labels[entry]))
        for entry, value in zip(view.rows[row], view.similarities[row], strict=True)
        if entry >= 0
    ]
    first = view.matches.starts[row]
    rank = int(view.matches.ranks[first])
    if rank > NEIGHBOURS:
        entry = int(view.matches.rows[first])
        cosine = float(query.embeddings[row] @ view.ranked.gallery.embeddings[entry])
        shown.append(_neighbour(view, entry, cosine, True, f"rank {rank:,}", "later "))
    name = file_name(view.found.query, row)
    return (
        f'<article class="answer"><figure>{view.picture("query", row)}<figcaption>'
        f"<b>{text(view.name(own))}</b>"
        f'<span class="path">{text(name)}</span></figcaption></figure>'
        f'<ol style="--n: {columns}">{"".join(shown)}</ol></article>'
    )


def _neighbour(view: View, entry: int, value: float, right: bool, note: str, more="") -> str:
    kind, mark, said = ("right", RIGHT, "right") if right else ("wrong", WRONG, "wrong")
    return (
        f'<li class="{more}{kind}">{view.picture("gallery", entry)}'
        f'<span class="mark"><i aria-label="{said}">{mark}</i> {value:.3f}</span>'
        f'<span class="note">{text(note)}</span></li>'
    )


def confused(view: View) -> str:
    """Pairs of identities that are taken for each other most often."""
    found = _confusions(view)
    if not found:
        return "<p>No identity is taken for another.</p>"
    cards = "".join(_confused(view, one) for one in found[:CONFUSED])
    return (
        f'<p class="soft">The {min(CONFUSED, len(found))} most frequent of '
        f"{number(len(found), 'pair')}: queries of the identity on the left whose nearest image is "
        "of the one on the right. Shown is the query that is most similar to it.</p>"
        f'<div class="pairs">{cards}</div>'
    )


def _confused(view: View, one: Confusion) -> str:
    entry = int(view.rows[one.example, 0])
    share = f"{100 * one.count / one.queries:.0f} %"
    return (
        f'<div class="pair"><figure>{view.picture("query", one.example)}</figure>'
        f'<span class="arrow" aria-hidden="true">\N{RIGHTWARDS ARROW}</span>'
        f"<figure>{view.picture('gallery', entry)}</figure>"
        f"<p><b>{text(view.name(one.label))}</b> taken for <b>{text(view.name(one.taken_for))}</b>"
        f"<br/>{one.count:,} of {number(one.queries, 'query', 'queries')}, {share}</p></div>"
    )


def _confusions(view: View) -> list[Confusion]:
    labels, nearest = view.ranked.query.labels, view.similarities[:, 0]
    return confusions(labels, view.taken_for, nearest, view.scored)


def weakest(view: View) -> str:
    """The identities with the lowest figures."""
    by_class = view.found.result.by_class()
    names = list(view.found.result.per_query)[:2]
    first, values = names[0], [found[names[0]] for found in by_class.values()]
    # Of two that are as weak, the one with more queries is the surer case.
    order = sorted(
        by_class, key=lambda label: (by_class[label][first], -by_class[label]["queries"])
    )
    taken: dict[int, Confusion] = {}
    for one in _confusions(view):
        taken.setdefault(one.label, one)
    rows = "".join(_weak(view, label, by_class[label], names, taken) for label in order[:WEAKEST])
    heads = "".join(f"<th>{text(metric_words(name)[0])}</th>" for name in names)
    title = text(metric_words(first)[0])
    return (
        f'<p class="soft">{title} is 100 % for {values.count(1)} of '
        f"{number(len(values), 'identity', 'identities')}, and 0 % for {values.count(0)}. The "
        f"{min(WEAKEST, len(order))} lowest, of equal ones those with more queries first:</p>"
        f"<table><thead><tr><th>identity</th><th>queries</th>{heads}"
        f"<th>most often taken for</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _weak(view: View, name, values: dict, names: list[str], taken: dict[int, Confusion]) -> str:
    label = view.label(name)
    one = taken.get(label)
    other = "" if one is None else f"{text(view.name(one.taken_for))} ({one.count:,})"
    cells = "".join(f'<td class="n">{figure(values[key])}</td>' for key in names)
    return (
        f'<tr><th><div class="who">{view.example(label)}{text(name)}</div></th>'
        f'<td class="n">{values["queries"]:,}</td>{cells}<td>{other}</td></tr>'
    )
