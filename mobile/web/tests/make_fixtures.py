"""Write what the tests of the page compare with: pictures, and what Python makes of them.

Run from the repository's root, with keras_featx and its extra ``test`` installed:
``python mobile/web/tests/make_fixtures.py``
"""

import base64
import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from keras_featx import images
from keras_featx.extractors import read_model
from keras_featx.gallery_file import read_gallery, write_gallery
from keras_featx.sections import PreprocessSection

HERE = Path(__file__).parent
DATA = HERE / "data"
MODEL = HERE.parent / "public" / "model.tflite"
EMBEDDED = ("clear.png", "large.png", "photo.jpg", "full.jpg")
SIZES = [(24, 32), (7, 5), (64, 64)]
PREPROCESSINGS = [
    {},
    {"resize": "pad", "pad_value": 126.5},
    {"resize": "crop"},
    {"resize": "crop", "resize_short": 70},
    {"background": (255.0, 127.5, 0.0)},
    {"antialias": True},
    {"antialias": True, "resize": "pad"},
    {"antialias": True, "resize": "crop", "resize_short": 66},
]


def main() -> None:
    """Write all of it."""
    DATA.mkdir(exist_ok=True)
    for name, data in pictures().items():
        (DATA / name).write_bytes(data)
    fixtures = {"decoded": decoded(), "pixels": resized(), **embeddings(), **searches()}
    (DATA / "fixtures.json").write_text(json.dumps(fixtures, indent=1, ensure_ascii=False) + "\n")


def text(array: np.ndarray) -> str:
    """The bytes of an array, for JSON."""
    return base64.b64encode(array.tobytes()).decode()


def numbers(encoded: str) -> np.ndarray:
    """The float32 numbers of such a text."""
    return np.frombuffer(base64.b64decode(encoded), "<f4")


def decoded() -> dict:
    """SHA-256 of the pixels of each picture, with its size."""
    found = {}
    for path in sorted(DATA.glob("*.*")):
        if path.suffix in (".png", ".jpg", ".webp", ".gif"):
            image = images.decode(tf.constant(path.read_bytes())).numpy()
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            found[path.name] = {"size": image.shape[:2], "sha256": digest}
    return found


def resized() -> list:
    """Of each way: SHA-256 of all pixels, or the pixels where one level is allowed to differ."""
    found = []
    for name in ("clear.png", "noise.png", "large.png", "thin.png"):
        data = tf.constant((DATA / name).read_bytes())
        for i, changes in enumerate(PREPROCESSINGS):
            preprocess = PreprocessSection(**changes)
            sizes = SIZES[:2] if preprocess.antialias else SIZES
            size = sizes[(i + len(name)) % len(sizes)]
            pixels = images.load_bytes(data, size, preprocess).numpy()
            one = {"file": name, "size": size, "how": vars(preprocess)}
            if preprocess.antialias:
                one["pixels"] = text(pixels)
            else:
                one["sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
            found.append(one)
    return found


def embedded() -> list[np.ndarray]:
    """By LiteRT."""
    model = read_model(MODEL)
    run = Interpreter(str(MODEL)).get_signature_runner("serving_default")
    paths = [tf.constant(str(DATA / name)) for name in EMBEDDED]
    loaded = [images.load(path, model.image_size, model.preprocess) for path in paths]
    return [run(image=image.numpy()[None])["embedding"][0] for image in loaded]


def embeddings() -> dict:
    """With galleries of them."""
    model, vectors = read_model(MODEL), embedded()
    names = ["thing ü", "thing \uffee", "thing 🙂", "thing ü"]
    write = (vectors, names, model.fingerprint)
    write_gallery(DATA / "float16.kfg", *write, "float16", 0.75)
    write_gallery(DATA / "int8.kfg", *write, "int8", 0.75)
    write_gallery(DATA / "other.kfg", vectors, names, "cd" * 32)
    return {
        "fingerprint": model.fingerprint,
        "names": names,
        "embeddings": {name: text(v) for name, v in zip(EMBEDDED, vectors, strict=True)},
        "halves": text(np.array(vectors, "<f2")),
    }


def searches() -> dict:
    """Neighbours in small galleries in which 8 bits are too few to tell which is nearest."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 16)) * 0.02 + rng.normal(size=16)
    vectors[7] = vectors[3]  # a tie
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[[3, 20, 41]].astype("float32")
    found = {}
    for precision in ("float16", "int8"):
        path = DATA / f"close_{precision}.kfg"
        write_gallery(path, vectors, [f"{i:02}" for i in range(60)], "ab" * 32, precision)
        similarities, rows = read_gallery(path).search(queries, k=3)
        found[precision] = {"rows": rows.tolist(), "similarities": similarities.tolist()}
    codes = read_gallery(path)
    coarse = (queries @ codes.codes.T.astype("float32")) * codes.scales
    assert (np.argsort(-coarse, axis=1, kind="stable")[:, :3] != rows).any()  # noqa: S101
    return {"queries": text(queries), "close": found}


def pictures() -> dict[str, bytes]:
    """Of what decoders treat differently."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int, channels: int) -> np.ndarray:
        return rng.integers(0, 256, (height, width, channels), "uint8")

    def smooth(height: int, width: int) -> Image.Image:
        small = Image.fromarray(noise(height // 20 + 2, width // 20 + 2, 3))
        return small.resize((width, height), Image.BICUBIC)

    def encoded(image: Image.Image, kind: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    def turned(orientation: int) -> Image.Exif:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return exif

    clear = Image.fromarray(noise(40, 30, 4))
    small = Image.fromarray(noise(20, 30, 3))
    upright = smooth(24, 40)
    return {
        "noise.png": encoded(Image.fromarray(noise(40, 30, 3)), "PNG"),
        "clear.png": encoded(clear, "PNG"),
        "clear.webp": encoded(clear, "WEBP", lossless=True, exact=True),
        "palette.png": encoded(small.quantize(16), "PNG"),
        "see_through.gif": encoded(small.quantize(16), "GIF", transparency=3),
        "grey.png": encoded(small.convert("L"), "PNG"),
        "grey_clear.png": encoded(Image.fromarray(noise(20, 30, 2)), "PNG"),
        "gamma.png": with_chunk(encoded(small, "PNG"), b"gAMA", struct.pack(">I", 100_000)),
        "deep.png": encoded(Image.fromarray(noise(16, 24, 2).view("<u2")[..., 0]), "PNG"),
        "turned.png": encoded(small, "PNG", exif=turned(6)),
        "thin.png": encoded(Image.fromarray(noise(2, 180, 3)), "PNG"),
        "large.png": encoded(smooth(110, 157), "PNG"),
        "photo.jpg": encoded(smooth(120, 160), "JPEG", quality=90),
        "full.jpg": encoded(smooth(64, 64), "JPEG", quality=95, subsampling=0),
        "odd.jpg": encoded(smooth(37, 51), "JPEG", quality=80),
        "progressive.jpg": encoded(smooth(64, 48), "JPEG", quality=85, progressive=True),
        "grey.jpg": encoded(smooth(33, 47).convert("L"), "JPEG", quality=90),
        **{
            f"turned_{n}.jpg": encoded(upright, "JPEG", quality=90, exif=turned(n))
            for n in range(1, 9)
        },
    }


def with_chunk(data: bytes, name: bytes, body: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + name + body
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(name + body)) + data[33:]


if __name__ == "__main__":
    main()
