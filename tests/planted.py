"""A data set with a known fault of every kind, made from the shipped emoji pictures."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import EMOJI_MINI
from PIL import Image, ImageOps

IDENTITIES = sorted(p.name for p in (EMOJI_MINI / "train").iterdir())
STYLES = ("noto", "twemoji", "fluent-emoji")


def picture(identity, style="noto"):
    """A drawing, 64 x 64, on white."""
    return Image.open(EMOJI_MINI / "train" / identity / f"{style}.png").convert("RGB")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class Planted:
    """Lists that are written row by row, and what must be found.

    ``expected`` holds kind -> set of (part, row); label findings have row 0.
    """

    root: Path
    rows: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    used: int = 0

    def add(self, part, name, label, data=None, kinds=()):
        """A row; ``data`` is what the file holds, ``None`` if there is none (or already one)."""
        if data is not None:
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return self.line(part, f"{name} {label}", kinds)

    def line(self, part, text, kinds=()):
        rows = self.rows.setdefault(part, [])
        rows.append(text)
        self.expect(part, len(rows), *kinds)
        return len(rows)

    def expect(self, part, row, *kinds):
        for kind in kinds:
            self.expected.setdefault(kind, set()).add((part, row))

    def fresh(self):
        """A picture that no other row has: identities that the clean rows do not use."""
        self.used += 1
        return picture(IDENTITIES[30 + self.used])

    def write(self):
        for part, rows in self.rows.items():
            (self.root / f"{part}.txt").write_text("\n".join(rows) + "\n")
        return {part: str(self.root / f"{part}.txt") for part in self.rows}


def clean(root, identities=12):
    """Nothing to find: training, query and gallery of different identities."""
    planted = Planted(root)
    for label, identity in enumerate(IDENTITIES[:identities]):
        for style in STYLES:
            data = encoded(picture(identity, style))
            planted.add("train", f"train/{identity}/{style}.png", label, data)
    for label, identity in enumerate(IDENTITIES[identities : identities + 6]):
        for style in STYLES:
            part = "gallery" if style == "noto" else "query"
            data = encoded(picture(identity, style))
            planted.add(part, f"test/{identity}/{style}.png", label, data)
    return planted


def faulty(root):
    """One of everything, or several."""
    planted = clean(root)
    add, fresh = planted.add, planted.fresh
    _broken_files(planted)
    add("train", "odd/png.jpg", 2, encoded(fresh()), ["wrong_extensions"])
    add("train", "odd/cmyk.jpg", 2, encoded(fresh().convert("CMYK"), "JPEG"), ["cmyk"])
    deep = Image.fromarray(np.asarray(fresh().convert("L")).astype(np.uint16) * 257)
    add("train", "odd/deep.png", 2, encoded(deep), ["sixteen_bit"])
    for kind in ("GIF", "PNG", "WEBP"):
        frames = {"save_all": True, "append_images": [fresh()], "duration": 80}
        name = f"odd/moving.{kind.lower()}"
        add("train", name, 3, encoded(fresh(), kind, **frames), ["animated"])
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(fresh(), "JPEG", exif=turned, quality=95)
    add("train", "odd/turned.jpg", 3, data, ["exif_rotated"])
    add("train", "odd/small.png", 3, encoded(fresh().resize((30, 40))), ["very_small"])
    add("train", "odd/large.png", 3, encoded(fresh().resize((900, 700))), ["very_large"])
    _copies(planted)
    _between_lists(planted)
    add("train", "odd/alone.png", 14, encoded(fresh()), ["single_images"])
    planted.expect("train", 0, "label_gaps")  # 12 and 13
    add("query", "odd/stranger.png", 77, encoded(fresh()), ["queries_without_match"])
    return planted


def _broken_files(planted):
    add, fresh = planted.add, planted.fresh
    planted.line("train", "three columns 1", ["unreadable_rows"])
    add("train", "broken/no_label.png", "one", encoded(fresh()), ["unreadable_rows"])
    add("train", "broken/none.png", 1, None, ["missing_files"])
    add("train", "broken/empty.png", 1, b"", ["empty_files"])
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        data = encoded(fresh(), kind)
        name = f"broken/half.{kind.lower()}"
        add("train", name, 1, data[: len(data) // 2], ["truncated"])
    add("train", "broken/text.png", 1, b"not found" * 20, ["undecodable"])
    page = b"<!DOCTYPE html><html>404</html>"
    add("train", "broken/page.jpg", 1, page, ["undecodable"])
    tiff = encoded(fresh(), "TIFF")
    add("train", "broken/scan.tiff", 1, tiff, ["undecodable"])
    garbled = bytearray(encoded(fresh()))
    garbled[len(garbled) // 2] ^= 0xFF
    add("train", "broken/garbled.png", 1, bytes(garbled), ["undecodable"])


def near_copies(image):
    """The same picture, stored anew, smaller, cropped and brighter."""
    width, height = image.size
    crop = (1, 1, width, height)
    yield "stored", encoded(image, "JPEG", quality=50)
    yield "smaller", encoded(image.resize((width * 4 // 5, height * 4 // 5)))
    yield "cropped", encoded(image.crop(crop))
    yield (
        "brighter",
        encoded(Image.fromarray(np.minimum(np.asarray(image) + 5.0, 255).astype("u1"))),
    )


def _copies(planted):
    add, fresh = planted.add, planted.fresh
    first = encoded(fresh())
    add("train", "copies/one.png", 4, first)
    add("train", "copies/two.png", 4, first, ["duplicates"])
    add("train", "copies/one.png", 4, None, ["duplicates"])
    torn = encoded(fresh())
    add("train", "copies/torn.png", 5, torn, ["conflicting_duplicates"])
    add("train", "copies/torn_too.png", 6, torn, ["conflicting_duplicates"])
    image = fresh()
    add("train", "copies/original.png", 7, encoded(image))
    for name, data in near_copies(image):
        extension = "jpg" if name == "stored" else "png"
        add("train", f"copies/{name}.{extension}", 7, data, ["near_duplicates"])
    image = fresh()
    add("train", "copies/here.png", 8, encoded(image), ["near_conflicts"])
    stored = encoded(image, "JPEG", quality=60)
    add("train", "copies/there.jpg", 9, stored, ["near_conflicts"])


def _between_lists(planted):
    add, fresh = planted.add, planted.fresh
    image = fresh()
    add("train", "leaks/same.png", 10, encoded(image), ["leaks"])
    add("query", "leaks/same_query.png", 1, encoded(image))
    add("train", "leaks/same_file.png", 10, encoded(fresh()), ["leaks"])
    add("gallery", "leaks/same_file.png", 1, None)
    image = fresh()
    add("train", "leaks/near.png", 11, encoded(image), ["near_leaks"])
    add("gallery", "leaks/near_gallery.jpg", 2, encoded(image, "JPEG", quality=50))
    image = fresh()
    add("query", "leaks/itself.png", 3, encoded(image), ["queries_in_gallery"])
    add("gallery", "leaks/itself_too.png", 3, encoded(image))
    image = fresh()
    add("query", "leaks/nearly.png", 3, encoded(image), ["queries_near_gallery"])
    add("gallery", "leaks/nearly_too.jpg", 3, encoded(ImageOps.expand(image), "JPEG", quality=60))
