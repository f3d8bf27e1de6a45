"""Small pictures for the report."""

from collections.abc import Callable, Sequence

from keras_featx.doctor.findings import Part, Ref
from keras_featx.report.pictures import picture_address


def thumbnails(parts: Sequence[Part]) -> Callable[[Ref], str]:
    """From an image of these lists to a ``data:`` address; empty where there is none to show."""
    by_name = {part.name: part for part in parts}
    known: dict[tuple[str, int], str] = {}

    def thumbnail(ref: Ref) -> str:
        key = ref.part, ref.place
        if key not in known:
            part, shown = by_name[ref.part], ref.place >= 0
            shown = shown and part.usable[ref.place]
            known[key] = picture_address(part.samples, ref.place) if shown else ""
        return known[key]

    return thumbnail
