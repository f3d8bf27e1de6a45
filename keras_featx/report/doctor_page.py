"""What the doctor found as one HTML page, which needs nothing but itself."""

from collections.abc import Callable, Sequence

from keras_featx.doctor.findings import KINDS, NOTE, Finding, Part, Ref, bad, counts
from keras_featx.report.page import document, facts, text

# Findings of a kind that are shown; all are in doctor.json.
SHOWN = 24
# From an image to an address that holds it, or to nothing.
Thumbnail = Callable[[Ref], str]

_STYLE = """
:root { --stops: #c62535; --spoils: #b45b00; --note: #33669c; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --stops: #ff7b85; --spoils: #f3a75c;
  --note: #7fb2e8; --good: #5fcf80; } }
.verdict { font-weight: 600; font-size: 17px; }
.stops { color: var(--stops); } .spoils { color: var(--spoils); } .note { color: var(--note); }
.good { color: var(--good); }
h2 i { font-style: normal; font-size: 11px; border: 1px solid; border-radius: 10px;
  padding: 1px 8px; margin-left: 6px; vertical-align: 2px; }
nav a b { font-variant-numeric: tabular-nums; margin-right: 5px; }
.lists { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); }
.lists section { margin: 0; min-width: 0; }
svg { display: block; width: 100%; height: 92px; margin-top: 8px; }
svg rect { fill: var(--note); }
.cards { display: grid; gap: 10px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 9px; min-width: 0; }
.card p { font-size: 13px; margin: 5px 0 0; overflow-wrap: anywhere; }
.images { display: flex; flex-wrap: wrap; gap: 8px; }
figure { width: 100px; } figure img { display: block; max-width: 100px;
  max-height: 100px; border-radius: 4px; background: #fff; }
figure.own img { outline: 2px solid var(--note); } figcaption { font-size: 11px; line-height: 1.3;
  color: var(--soft); margin-top: 3px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
"""


def page(
    parts: Sequence[Part],
    findings: Sequence[Finding],
    thumbnail: Thumbnail,
    shared: dict[str, int],
    remarks: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        parts: The lists.
        findings: Of all kinds, the order within a kind is kept.
        thumbnail: Gives a picture of an image.
        shared: Identities in several lists.
        remarks: Sentences on how things were found.
    """
    number = counts(findings)
    stopping = bad(number)
    verdict = (
        f'<span class="stops">{stopping} findings would stop or spoil training or evaluation</span>'
        if stopping
        else '<span class="good">Nothing would stop or spoil training or evaluation</span>'
    )
    notes = sum(number.values()) - stopping
    body = [
        "<h1>Data set check</h1>",
        f'<p class="verdict">{verdict}</p>',
        f'<p class="soft">{notes} further notes. All of it, by row: doctor.json.</p>',
        *(f'<p class="soft">{text(remark)}</p>' for remark in remarks),
        f"<nav>{''.join(_chip(kind, count) for kind, count in number.items())}</nav>",
        f'<div class="lists">{"".join(map(_list, parts))}</div>',
        _shared(shared),
        *(_section(kind, [f for f in findings if f.kind == kind], thumbnail) for kind in number),
    ]
    return document("Data set check", _STYLE, body)


def _chip(kind: str, count: int) -> str:
    known = KINDS[kind]
    return f'<a href="#{kind}"><b class="{known.weight}">{count}</b>{text(known.title)}</a>'


def _list(part: Part) -> str:
    spread = part.facts["images_per_identity"]
    short = part.facts["short_side"]
    rows = [
        ("images", len(part.samples)),
        ("that can be decoded", part.facts["decodable"]),
        ("identities", part.facts["identities"]),
        ("images of each", f"{spread['min']} to {spread['max']}"),
        ("median, mean", f"{spread['median']:g}, {spread['mean']:g}"),
        ("Gini coefficient", f"{spread['gini']:.2f}"),
    ]
    if part.facts["bytes"]:
        rows.append(("size", _size(part.facts["bytes"])))
    if part.facts["formats"]:
        formats = sorted(part.facts["formats"].items(), key=lambda item: -item[1])
        rows.append(("formats", ", ".join(f"{name} {count}" for name, count in formats)))
    if short:
        rows.append(("short side", f"{short['min']} to {short['max']} px"))
    return (
        f'<section><h2>{text(part.name)}</h2><p class="path">{text(part.samples.source)}</p>'
        f"{facts(rows)}{_bars(spread['bars'])}"
        '<p class="soft">images of each identity, the largest first</p></section>'
    )


def _bars(bars: Sequence[float]) -> str:
    """A bar for each identity, or for several with their mean."""
    highest, width = max(bars), 600 / len(bars)
    drawn = "".join(
        f'<rect x="{i * width:.2f}" y="{88 - 84 * bar / highest:.2f}" '
        f'width="{max(width * 0.86, 0.5):.2f}" height="{84 * bar / highest:.2f}">'
        f"<title>{bar:g}</title></rect>"
        for i, bar in enumerate(bars)
    )
    return (
        '<svg viewBox="0 0 600 88" preserveAspectRatio="none" role="img" '
        f'aria-label="images of each identity">{drawn}</svg>'
    )


def _shared(shared: dict[str, int]) -> str:
    if not shared:
        return ""
    rows = facts((name.replace("_", " "), count) for name, count in shared.items())
    return f"<section><h2>identities in several lists</h2>{rows}</section>"


def _section(kind: str, found: Sequence[Finding], thumbnail: Thumbnail) -> str:
    known = KINDS[kind]
    more = f'<p class="soft">and {len(found) - SHOWN} more</p>' if len(found) > SHOWN else ""
    cards = "".join(_card(finding, thumbnail) for finding in found[:SHOWN])
    weight = "" if known.weight == NOTE else f' <i class="{known.weight}">{known.weight}</i>'
    return (
        f'<section id="{kind}"><h2><span class="{known.weight}">{len(found)}</span> '
        f'{text(known.title)}{weight}</h2><p class="soft">{text(known.about)}</p>'
        f'<div class="cards">{cards}</div>{more}</section>'
    )


def _card(finding: Finding, thumbnail: Thumbnail) -> str:
    shown = [_figure(finding.image, thumbnail, "own")]
    shown += [_figure(other, thumbnail, "other") for other in finding.others]
    score = "" if finding.score is None else f" ({finding.score:.2f})"
    path = f'<p class="path">{text(finding.image.path)}</p>' if finding.image.path else ""
    place = "" if any(shown) else f"{text(_place(finding.image))}: "
    images = f'<div class="images">{"".join(shown)}</div>' if any(shown) else ""
    return f'<div class="card">{images}<p>{place}{text(finding.what + score)}</p>{path}</div>'


def _figure(ref: Ref, thumbnail: Thumbnail, role: str) -> str:
    address = thumbnail(ref)
    if not address:
        return ""
    label = f"label <b>{text(ref.label)}</b><br/>" if ref.label else ""
    return (
        f'<figure class="{role}"><img src="{address}" alt="{text(ref.path)}"/>'
        f"<figcaption>{label}{text(_place(ref))}</figcaption></figure>"
    )


def _place(ref: Ref) -> str:
    row = f", row {ref.row}" if ref.row else ""
    label = f", {ref.label}" if ref.label and not ref.row else ""
    return f"{ref.part}{row}{label}"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
