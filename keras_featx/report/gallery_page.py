"""What a gallery holds, as one page that needs nothing but itself."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data.outputs import write_bytes
from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.opened import Opened
from keras_featx.gallery.versions import Manifest
from keras_featx.report import gallery_charts
from keras_featx.report.gallery_pictures import item_pictures
from keras_featx.report.gallery_view import GalleryView, spread_of, view_of
from keras_featx.report.page import document, facts, text
from keras_featx.report.wording import number

# Identities of each end, rows of a table, and versions that are shown.
ENDS, ROWS, VERSIONS = 8, 50, 12
# Settings of its own.
_INNER = ("next_serial",)
_CSS = Path(__file__).parent.parent / "assets" / "report.css"
_STYLE = """
span.picture { color: var(--soft); font-size: 7px; line-height: 1.1; border: 1px dashed var(--line);
  overflow-wrap: anywhere; }
.who .picture { width: 40px; } .who { min-width: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .wide :is(td, thead th):not(.n) { text-align: left; }
.wide thead th.n { text-align: right; }
"""


def write_info(
    gallery: Opened,
    path: str | os.PathLike,
    *,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    title: str | None = None,
) -> None:
    """Write the page of a gallery.

    Facts and versions, items of each identity, cosines of items within and between identities, a
    map of the embeddings, the largest and the smallest identities.

    Args:
        gallery: As it is open.
        path: Of the page, ``.html``.
        tables: More to show, by title: rows of equal keys, such as what may be wrongly labelled.
            An ``id``, or a key that ends in ``_id``, names an item and has its picture.
        title: Of the page; by default the name of the folder.

    Raises:
        ConfigError: On another ending.
        RunError: If the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from keras_featx import Gallery
        >>> from keras_featx.report.gallery_page import write_info
        >>> shelf = Gallery.create("output/example_page", "0" * 64, size=2, overwrite=True)
        >>> shelf.add(["a.jpg", "b.jpg"], ["ant", "bee"], np.eye(2))
        2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_info(shelf, os.path.join(folder, "info.html"))
        ...     os.listdir(folder)
        ['info.html']
    """
    if Path(path).suffix.lower() != ".html":
        raise ConfigError(f"{os.fspath(path)}: expected a name that ends in .html")
    view, picture = view_of(gallery), item_pictures()
    title = title or gallery.store.folder.resolve().name
    sections = [("Facts", _facts(gallery, view))]
    if len(view):
        threshold = gallery.settings.get("threshold")
        sections += [
            ("Items of identities", gallery_charts.sizes(view) + _ends(view, picture)),
            ("Similarities", gallery_charts.similarities(view, spread_of(view), threshold)),
            ("Map of embeddings", gallery_charts.embedding_map(view, picture)),
        ]
    sections += [(name, _table(gallery, rows, picture)) for name, rows in (tables or {}).items()]
    sections.append(("Versions", _versions(gallery)))
    counted = f"{number(len(view), 'item')} of {number(len(view.names), 'identity', 'identities')}"
    chips = "".join(f'<a href="#part-{i}">{text(name)}</a>' for i, (name, _) in enumerate(sections))
    body = [
        '<header><p class="kicker">keras_featx gallery</p>',
        f'<h1>{text(title)}</h1><p class="soft">{counted}, version {gallery.version}.</p></header>',
        f"<nav>{chips}</nav>",
        *(
            f'<section id="part-{i}"><h2>{text(name)}</h2>{inside}</section>'
            for i, (name, inside) in enumerate(sections)
        ),
    ]
    page = document(f"{title}: gallery", _CSS.read_text() + _STYLE, body)
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise RunError(f"{os.fspath(path)}: cannot be written: {error.strerror}") from None


def _facts(gallery: Opened, view: GalleryView) -> str:
    manifest = gallery.manifest
    rows: list[tuple[str, Any]] = [
        ("items", number(len(view))),
        ("identities", number(len(view.names))),
        ("fingerprint of the model", manifest.fingerprint),
        ("numbers of an embedding", f"{manifest.size}, {manifest.precision}"),
        ("size of this version", _size(_bytes_of(manifest))),
        ("size on disk, all versions", _size(_bytes_below(gallery.store.folder))),
        ("folder", gallery.store.folder),
    ]
    settings = sorted(gallery.settings.items())
    return facts(rows) + facts((key, _value(one)) for key, one in settings if key not in _INNER)


def _value(value: Any) -> str:
    """A setting or a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _bytes_of(manifest: Manifest) -> int:
    """Of the files that a version needs, without its manifest."""
    named = [file for part in manifest.parts for file in part.files.values()]
    named += [part.removed_file for part in manifest.parts if part.removed_file]
    return sum(file["bytes"] for file in named)


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be changing it
            total += file.stat().st_size if file.is_file() else 0
    return total


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _ends(view: GalleryView, picture: Callable) -> str:
    """The identities with the most items, and those with the fewest, where there are such."""
    counts = view.counts
    if counts.min() == counts.max():
        return ""
    most, fewest = (np.argsort(sign * counts, kind="stable")[:ENDS] for sign in (-1, 1))
    shown = {"largest identities": most, "smallest identities": fewest[~np.isin(fewest, most)]}
    tables = "".join(
        f"<div><table><thead><tr><th>{name}</th><th>items</th></tr></thead>"
        f"<tbody>{''.join(_identity(view, label, picture) for label in labels)}</tbody></table>"
        "</div>"
        for name, labels in shown.items()
        if len(labels)
    )
    return f'<div class="beside">{tables}</div>'


def _identity(view: GalleryView, label: int, picture: Callable) -> str:
    return (
        f'<tr><th><div class="who">{picture(*view.item(int(view.firsts[label])))}'
        f"<span>{text(view.names[label])}</span></div></th>"
        f'<td class="n">{view.counts[label]:,}</td></tr>'
    )


def _table(gallery: Opened, rows: Sequence[Mapping[str, Any]], picture: Callable) -> str:
    """Rows of equal keys."""
    if not rows:
        return "<p>None.</p>"
    keys = list(rows[0])
    heads = "".join(
        f"<th{_number(rows[0][key])}>{text(key.replace('_', ' '))}</th>" for key in keys
    )
    body = "".join(
        f"<tr>{''.join(_cell(gallery, key, row.get(key), picture) for key in keys)}</tr>"
        for row in rows[:ROWS]
    )
    more = "" if len(rows) <= ROWS else f"The first {ROWS} of {len(rows):,}."
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        f'</div><p class="soft">{more}</p>'
    )


def _cell(gallery: Opened, key: str, value: Any, picture: Callable) -> str:
    shown = text(_value(value))
    if _number(value):
        return f'<td class="n">{shown}</td>'
    if key != "id" and not key.endswith("_id") or not isinstance(value, str):
        return f"<td>{shown}</td>"
    (place,) = gallery.places([value])
    metadata = {} if place is None else gallery.segments[place[0]].metadata_of(place[1])
    return f'<td><div class="who">{picture(value, metadata)}<span>{shown}</span></div></td>'


def _number(value: Any) -> str:
    """The class of a cell of numbers."""
    return ' class="n"' if isinstance(value, int | float) else ""


def _versions(gallery: Opened) -> str:
    """The newest versions up to the one that is open."""
    numbers = [one for one in gallery.store.numbers() if one <= gallery.version][::-1]
    rows = []
    for one in numbers[:VERSIONS]:
        try:
            made = gallery.store.read(one)
            cells = (made.made, made.what, f"{made.items:,}")
        except (RunError, ConfigError) as error:  # it may be damaged, or pruned meanwhile
            cells = ("", str(error), "")
        rows.append(
            f"<tr><th>{one}</th><td>{text(cells[0])}</td><td>{text(cells[1])}</td>"
            f'<td class="n">{cells[2]}</td></tr>'
        )
    shown = "" if len(rows) == len(numbers) else f"The newest {len(rows)} of {len(numbers):,}."
    return (
        '<div class="wide"><table><thead><tr><th>version</th><th>made, UTC</th><th>what</th>'
        f'<th class="n">items</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="soft">{shown}</p>'
    )
