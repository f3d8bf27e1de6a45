"""What a search in a gallery answered, and what was found in a scene, as one page or one PNG."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_featx.data.outputs import write_bytes
from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.opened import Match
from keras_featx.gallery.scenes import Found
from keras_featx.report import gallery_plots
from keras_featx.report.gallery_pictures import (
    html_picture,
    item_pictures,
    item_pixels,
    name_of,
    pixels_of,
    small,
)
from keras_featx.report.page import document, text
from keras_featx.report.wording import number

UNKNOWN = "unknown"
# Neighbours beside each other, at most.
_COLUMNS = 6
# Pixels of a scene's long side on a page.
_SCENE_SIDE = 1280
_CSS = Path(__file__).parent.parent / "assets" / "report.css"
_STYLE = """
.answer li .picture { border: 2px solid var(--line); } .answer .same .picture {
  border-color: var(--right); }
.answer .same .mark i { color: var(--right); } .answer li .note { display: -webkit-box; }
.answer .unknown b { color: var(--wrong); } .answer figcaption .mark { color: var(--soft); }
.answer figcaption i { font-style: normal; color: var(--card); background: var(--c);
  border-radius: 4px; padding: 0 5px; margin-right: 4px; }
span.picture { color: var(--soft); padding: 5px; border: 1px dashed var(--line);
  overflow-wrap: anywhere; }
.scene { position: relative; margin-top: 12px; } .scene > .picture { aspect-ratio: auto; }
.spot { position: absolute; border: 2px solid var(--c); box-shadow: 0 0 0 1px var(--card); }
.spot b { position: absolute; left: 0; top: 0; max-width: 100%; padding: 0 4px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; font: 600 11px/15px system-ui, sans-serif;
  color: var(--card); background: var(--c); }
.spot.other { border-style: dashed; } .spot.other, figcaption .other { --c: var(--soft); }
"""


class _Row(NamedTuple):
    """A query or a part of a scene, with its answer and neighbours."""

    name: str
    pixels: np.ndarray | None
    answer: Any
    matches: Sequence[Match]
    colour: str = ""
    number: int | None = None


def write_panel(
    path: str | os.PathLike,
    queries: Sequence[Any],
    answers: Sequence[Any],
    matches: Sequence[Sequence[Match]],
    *,
    threshold: float | None = None,
    title: str = "Search in a gallery",
) -> None:
    """Write each query beside its answer and its nearest items.

    The pictures of items are those at ``path`` in their metadata; one that is not there, or no
    image, is an empty frame with the item's id.

    Args:
        path: Ends in ``.html``, a page that needs nothing but itself, or ``.png``. Letters that the
            font of a PNG lacks are boxes in it.
        queries: Image files, or pixels ``(height, width, 3)``.
        answers: Of each, with ``identity``, or ``None``, and ``similarity``.
        matches: Of each, as of :meth:`Opened.search`.
        threshold: That was decided by, to be shown.
        title: Of the page.

    Raises:
        ConfigError: On another ending, counts that differ, or more queries than a PNG can show.
        RunError: If the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from keras_featx.gallery.opened import Match
        >>> from keras_featx.gallery.scenes import by_threshold
        >>> from keras_featx.report.gallery_panels import write_panel
        >>> found = [Match("ant.jpg", "ant", 0.9, {})]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = os.path.join(folder, "panel.html")
        ...     write_panel(file, [np.zeros((9, 9, 3))], [by_threshold(0.5)(found)], [found])
        ...     os.path.getsize(file) < 20_000
        True
    """
    for name, values in (("answers", answers), ("matches", matches)):
        if len(values) != len(queries):
            raise ConfigError(f"{name}: expected {len(queries)}, one a query, got {len(values)}")
    count = len(queries)
    rows = (  # one at a time, as pictures may be large
        _Row(name_of(query, i), pixels_of(query), answer, found)
        for i, (query, answer, found) in enumerate(zip(queries, answers, matches, strict=True))
    )
    if _ending(path) == ".png":
        _write(path, gallery_plots.panel(map(_drawn, rows), count))
        return
    known = sum(answer.identity is not None for answer in answers)
    said = [number(count, "query", "queries"), f"{known} known", f"{count - known} unknown"]
    body = [
        _header("gallery search", title, ", ".join(said) + _by(threshold)),
        f"<section>{_answers(rows)}</section>",
    ]
    _write(path, document(title, _CSS.read_text() + _STYLE, body).encode())


def write_scene(
    path: str | os.PathLike,
    image: Any,
    found: Sequence[Found],
    *,
    threshold: float | None = None,
    title: str | None = None,
) -> None:
    """Write a picture with what was found in it: boxes with identities and similarities.

    Args:
        path: Ends in ``.html``, where the nearest items of each box stand below, or ``.png``.
        image: The file, or the pixels, that :func:`~keras_featx.gallery.scenes.recognise` had.
        found: What it returned.
        threshold: That was decided by, to be shown.
        title: Of the page; by default the name of the file.

    Raises:
        ConfigError: On another ending.
        RunError: If the picture cannot be read, or the file cannot be written.
    """
    pixels, ending = pixels_of(image), _ending(path)
    if pixels is None:
        raise RunError(f"{image}: expected a picture, got nothing that can be shown")
    colours = _colours(found)
    rows = [
        _Row(
            " ".join(map(str, one.box)), pixels_of(pixels, one.box), one, one.matches,
            colours[one.identity], i,
        )
        for i, one in enumerate(found, 1)
    ]  # fmt: skip
    if ending == ".png":
        spots = [(row.answer.box, _says(row.answer, "?"), row.colour) for row in rows]
        _write(path, gallery_plots.scene(pixels, spots))
        return
    title = title or (name_of(image, 0) if isinstance(image, str | os.PathLike) else "Scene")
    known = sum(one.identity is not None for one in found)
    said = f"{known} known, {len(found) - known} unknown in {pixels.shape[1]} x {pixels.shape[0]}"
    body = [
        _header("gallery scene", title, f"{said} pixels{_by(threshold)}"),
        f"<section>{_scene(pixels, rows, title)}</section>",
        *([f"<section>{_answers(rows)}</section>"] if rows else []),
    ]
    _write(path, document(title, _CSS.read_text() + _STYLE, body).encode())


def _ending(path: str | os.PathLike) -> str:
    ending = Path(path).suffix.lower()
    if ending not in (".html", ".png"):
        raise ConfigError(f"{os.fspath(path)}: expected a name that ends in .html or .png")
    return ending


def _write(path: str | os.PathLike, data: bytes) -> None:
    try:
        write_bytes(path, data)
    except OSError as error:
        raise RunError(f"{os.fspath(path)}: cannot be written: {error.strerror}") from None


def _header(kicker: str, title: str, said: str) -> str:
    return (
        f'<header><p class="kicker">keras_featx {kicker}</p><h1>{text(title)}</h1>'
        f'<p class="soft">{text(said)}</p></header>'
    )


def _by(threshold: float | None) -> str:
    return (
        "." if threshold is None else f"; known from a similarity (cosine) of {threshold:.4g} on."
    )


def _says(answer: Any, unknown: str = UNKNOWN) -> str:
    """An answer in words, on a short line."""
    name = unknown if answer.identity is None else gallery_plots.short(answer.identity)
    return name if answer.similarity is None else f"{name} {answer.similarity:.3f}"


def _drawn(row: _Row) -> gallery_plots.Row:
    """A row for a PNG."""
    neighbours = [
        (
            small(item_pixels(match.metadata)), _says(match), match.id,
            match.identity == row.answer.identity,
        )
        for match in row.matches
    ]  # fmt: skip
    return (
        small(row.pixels),
        _says(row.answer),
        row.name,
        row.answer.identity is not None,
        neighbours,
    )


def _answers(rows: Iterable[_Row]) -> str:
    picture = item_pictures()
    return f'<div class="answers">{"".join(_answer(row, picture) for row in rows)}</div>'


def _answer(row: _Row, picture) -> str:
    own, similarity = row.answer.identity, row.answer.similarity
    shown = []
    for match in row.matches:
        kind, mark = ("same", '<i aria-label="as answered">\N{CHECK MARK}</i> ')
        if match.identity != own:
            kind, mark = "another", ""
        shown.append(
            f'<li class="{kind}">{picture(match.id, match.metadata)}'
            f'<span class="mark">{mark}{match.similarity:.3f}</span>'
            f'<span class="note" title="{text(match.identity)}">{text(match.identity)}</span></li>'
        )
    spot = "" if row.number is None else f'<i class="{row.colour}">{row.number}</i>'
    value = "" if similarity is None else f'<span class="mark">similarity {similarity:.3f}</span>'
    kind = ' class="unknown"' if own is None else ""
    name = text(UNKNOWN if own is None else own)
    lines = max(1, -(-len(row.matches) // _COLUMNS))
    columns = max(1, -(-len(row.matches) // lines))
    return (
        f'<article class="answer"><figure>{html_picture(row.pixels, row.name)}'
        f"<figcaption{kind}>{spot}<b>{name}</b>{value}"
        f'<span class="path">{text(row.name)}</span></figcaption></figure>'
        f'<ol style="--n: {columns}">{"".join(shown)}</ol></article>'
    )


def _colours(found: Sequence[Found]) -> dict[str | None, str]:
    """A colour of the map for each identity, the most frequent first; grey for nobody known."""
    counts = Counter(one.identity for one in found if one.identity is not None)
    colours = {name: f"m{i % 10}" for i, (name, _) in enumerate(counts.most_common())}
    return {**colours, None: "other"}


def _scene(pixels: np.ndarray, rows: Sequence[_Row], title: str) -> str:
    height, width = pixels.shape[:2]
    spots = []
    for row in reversed(rows):  # the surest on top
        left, top, right, bottom = row.answer.box
        place = (
            f"left: {100 * left / width:.3f}%; top: {100 * top / height:.3f}%; "
            f"width: {100 * (right - left) / width:.3f}%; "
            f"height: {100 * (bottom - top) / height:.3f}%"
        )
        name = row.answer.identity
        title, said = (UNKNOWN, row.number) if name is None else (name, f"{row.number} {name}")
        spots.append(
            f'<div class="spot {row.colour}" style="{place}" title="{text(title)}">'
            f"<b>{text(said)}</b></div>"
        )
    side = min(_SCENE_SIDE, 4 * max(height, width))
    picture = html_picture(pixels, title, side)
    return f'<div class="scene">{picture}{"".join(spots)}</div>'
