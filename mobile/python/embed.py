#!/usr/bin/env python3
"""Embed images by a .tflite of keras_featx, and find them in a gallery file.

Needs ai-edge-litert and Pillow, nothing else; OpenCV for --camera alone.
"""

import argparse
import json
import math
import os
import struct
import sys
import time
import zipfile
import zlib

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

FACTS = "keras_featx.json"
# Decoded sizes beyond are refused by the header.
MOST_PIXELS = 100_000_000
Image.MAX_IMAGE_PIXELS = None  # our limit is an error, not a warning
_HEADER = struct.Struct("<8sIIIIQ32sfII")


class Refused(Exception):
    """What a person is told in one line."""


class Model:
    """An opened ``.tflite``.

    Args:
        path: Of the file.
        threads: Of one embedding.
    """

    def __init__(self, path, threads=1):
        facts = read_facts(path)
        self.preprocess = facts["preprocess"]
        self.fingerprint = facts["fingerprint"]
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            self._run = interpreter.get_signature_runner("serving_default")
            shape = self._run.get_input_details()["image"]["shape"].tolist()
        except (ValueError, RuntimeError, KeyError) as error:
            raise Refused(f"{path}: expected a model that can be opened: {error}") from None
        self.image_size = tuple(shape[1:3])  # (height, width)

    def embed(self, image):
        """Embed upright uint8 ``(height, width, 3)`` of any size: float32, unit norm."""
        return self.embed_pixels(prepare(image, self.image_size, self.preprocess))

    def embed_pixels(self, pixels):
        """Likewise, of the network's size."""
        return self._run(image=pixels[None])["embedding"][0]


def read_facts(path):
    """What a model says of itself: preprocessing and fingerprint."""
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read(FACTS))
        how = facts["preprocess"]
        known = (how["interpolation"], how["backend"], how["reduced_decoding"])
        bytes.fromhex(facts["fingerprint"])
    except OSError as error:
        raise Refused(f"{path}: expected a model: {error.strerror}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError):
        raise Refused(f"{path}: expected a .tflite of keras-featx export") from None
    if known != ("bilinear", "tensorflow", False):
        raise Refused(
            f"{path}: expected a preprocessing of bilinear, tensorflow, without reduced_decoding, "
            f"got {known[0]}, {known[1]}, {'with' if known[2] else 'without'} reduced_decoding"
        )
    return facts


def load_image(path, background=None):
    """Decode an image file: upright uint8 ``(height, width, 3)``."""
    try:
        with Image.open(path) as file:
            if file.width * file.height > MOST_PIXELS:
                raise Refused(
                    f"{path}: expected at most {MOST_PIXELS:,} pixels, got "
                    f"{file.width * file.height:,}"
                )
            return to_rgb(ImageOps.exif_transpose(file), background)
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"{path}: expected an image that can be decoded: {reason}") from None


def to_rgb(image, background=None):
    """Three channels of 8 bits; what is not opaque keeps its colour or is laid over one."""
    if image.mode.startswith("I;16"):  # Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    opacity = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if opacity else "RGB")
    pixels = np.asarray(image)
    if background is not None and pixels.shape[2] == 4:
        colours = pixels[..., :3].astype(np.float32)
        absent = (255 - pixels[..., 3:].astype(np.float32)) / np.float32(255)
        colours += (np.asarray(background, np.float32) - colours) * absent
        return np.rint(colours).astype(np.uint8)
    return pixels[..., :3]


def prepare(image, image_size, how):
    """Resize as the model's ``preprocess`` says: uint8 ``(*image_size, 3)``."""
    size = np.array(image.shape[:2], np.float64)
    wanted = np.array(image_size)
    antialias = how["antialias"]
    if how["resize"] == "squash":
        return resize(image, image_size, antialias)
    if how["resize"] == "pad":
        fitted = np.maximum(np.rint(size * (wanted / size).min()).astype(int), 1)
        fitted = np.minimum(fitted, wanted)
        result = np.full((*image_size, 3), round(how["pad_value"]), np.uint8)
        top, left = (wanted - fitted) // 2
        result[top : top + fitted[0], left : left + fitted[1]] = resize(image, fitted, antialias)
        return result
    if how["resize_short"] is None:
        part = np.rint(wanted * (size / wanted).min()).astype(int)
        part = np.minimum(np.maximum(part, 1), image.shape[:2])
        return resize(centre(image, part), image_size, antialias)
    whole = np.rint(size * (how["resize_short"] / size.min())).astype(int)
    return centre(resize(image, whole, antialias), image_size)


def centre(image, size):
    """The middle of an image."""
    top, left = (np.array(image.shape[:2]) - size) // 2
    return image[top : top + size[0], left : left + size[1]]


def resize(image, size, antialias=False):
    """Bilinear, as TensorFlow computes it in float32; rounded half to even."""
    height, width = (int(n) for n in size)
    if antialias:
        rows = antialias_weights(height, image.shape[0])
        columns = antialias_weights(width, image.shape[1])
        tall = np.tensordot(rows, image.astype(np.float32), 1)
        return np.rint(np.einsum("xw,ywc->yxc", columns, tall)).astype(np.uint8)
    top, bottom, down = neighbours(height, image.shape[0])
    left, right, across = neighbours(width, image.shape[1])
    across, down = across[None, :, None], down[:, None, None]

    def between(first, last, share):
        last -= first  # in place, as new memory takes as long as the arithmetic
        last *= share
        last += first
        return last

    def between_columns(rows):
        picked = image[rows]
        return between(*(picked.take(some, 1).astype(np.float32) for some in (left, right)), across)

    found = between(between_columns(top), between_columns(bottom), down)
    return np.rint(found).astype(np.uint8)


def neighbours(count, length):
    """For each of ``count`` places the two pixels of ``length`` around it, and where between."""
    scale = np.float32(length) / np.float32(count)
    place = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(place)
    first = np.maximum(floor, 0).astype(int)
    last = np.minimum(np.ceil(place), length - 1).astype(int)
    return first, last, place - floor


def antialias_weights(count, length):
    """Float32 ``(count, length)``: the triangles that average over all pixels, each of sum 1."""
    inverse = np.float32(1) / (np.float32(count) / np.float32(length))
    reach = max(inverse, np.float32(1))
    places = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * inverse
    pixels = np.arange(length, dtype=np.float32) + np.float32(0.5)
    distance = np.abs(pixels[None] - places[:, None]) * (np.float32(1) / reach)
    weights = np.maximum(np.float32(1) - distance, np.float32(0))
    return weights / weights.sum(axis=1, keepdims=True)


class Gallery:
    """A gallery file, memory-mapped. ``mobile/GALLERY.md`` has its layout.

    Args:
        path: Of the file.
        fingerprint: Of the model that asks; ``None`` lets any ask.
    """

    def __init__(self, path, fingerprint=None):
        try:
            data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is empty"
            raise Refused(f"{path}: expected a gallery file: {reason}") from None
        head = data[:128].tobytes()
        if head[:8] != b"KFXGAL\r\n":
            raise Refused(f"{path}: expected a gallery file, got another kind of file")
        if len(head) < 128:
            raise Refused(f"{path}: expected at least 128 bytes, got {len(head)}")
        _, version, kind, size, count, items, digest, threshold, names, checksum = (
            _HEADER.unpack_from(head)
        )
        if version != 1:
            raise Refused(f"{path}: expected a gallery file of version 1, got {version}")
        if struct.unpack_from("<I", head, 76)[0] != zlib.crc32(head[:76]):
            raise Refused(f"{path}: damaged: the checksum of its header is another")
        if kind > 1 or not size or names < 4 * (count + 1):
            raise Refused(f"{path}: damaged: its header holds impossible numbers")
        sizes = [4 * items, names, *([4 * items, size * items] if kind else []), 2 * size * items]
        parts, at = [], 128
        for length in sizes:
            parts.append(data[at : at + length])
            at += length + -length % 64
        if at != len(data):
            raise Refused(f"{path}: expected {at:,} bytes, got {len(data):,}")
        if zlib.crc32(data[128:]) != checksum:
            raise Refused(f"{path}: damaged: the checksum of its contents is another")
        if fingerprint is not None and digest.hex() != fingerprint:
            raise Refused(
                f"{path}: expected a gallery of the model {fingerprint}, got one of {digest.hex()}"
            )
        self.threshold = None if math.isnan(threshold) else threshold
        self.labels = parts[0].view("<u4")
        self.names = _names(path, parts[1], count)
        if items and self.labels.max() >= count:
            raise Refused(f"{path}: damaged: an item names identity {self.labels.max()}")
        self.vectors = parts[-1].view("<f2").reshape(items, size)
        self.scales = parts[2].view("<f4") if kind else None
        self.codes = parts[3].view(np.int8).reshape(items, size) if kind else None

    def search(self, query, k=5):
        """The ``k`` nearest items, best first: ``[(identity, similarity, item), ...]``."""
        items = np.arange(len(self.labels))
        if self.codes is not None and 4 * k < len(items):
            coarse = (self.codes @ query) * self.scales
            items = np.sort(np.argpartition(-coarse, 4 * k)[: 4 * k])
        similar = self.vectors[items].astype(np.float32) @ query
        best = np.argsort(-similar, kind="stable")[:k]  # ties to the lowest item
        return [
            (self.names[self.labels[item]], float(value), int(item))
            for item, value in zip(items[best], similar[best], strict=True)
        ]


def _names(path, data, count):
    ends, text = data[: 4 * (count + 1)].view("<u4").tolist(), data[4 * (count + 1) :].tobytes()
    try:
        if ends[0] != 0 or ends[-1] != len(text) or ends != sorted(ends):
            raise ValueError
        return [text[a:b].decode() for a, b in zip(ends, ends[1:], strict=False)]
    except ValueError:
        raise Refused(f"{path}: damaged: the names of its identities") from None


def answer(embedding, gallery, k, threshold):
    """What is said of one image."""
    if gallery is None:
        return {"embedding": [float(f"{value:.8g}") for value in embedding]}
    found = gallery.search(embedding, k)
    best = found[0] if found else (None, None, None)
    known = best[1] is not None and (threshold is None or best[1] >= threshold)
    return {
        "identity": best[0] if known else None,
        "similarity": best[1],
        "neighbours": [
            {"identity": name, "similarity": value, "item": item} for name, value, item in found
        ],
    }


def watch(model, say, camera):
    """Say what a camera sees until it ends or a person interrupts."""
    try:
        import cv2
    except ImportError:
        raise Refused("--camera: expected OpenCV: pip install opencv-python-headless") from None
    frames = cv2.VideoCapture(int(camera) if camera.isdecimal() else camera)
    if not frames.isOpened():
        raise Refused(f"--camera {camera}: expected a camera or a video that can be opened")
    number = 0
    try:
        while True:
            there, frame = frames.read()
            if not there:
                return
            started = time.perf_counter()
            embedding = model.embed(frame[..., ::-1])  # OpenCV has blue first
            seconds = time.perf_counter() - started
            say({"frame": number}, embedding, {"milliseconds": round(1000 * seconds, 2)})
            number += 1
    except KeyboardInterrupt:
        return
    finally:
        frames.release()


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="embed.py", description="Embed images by a .tflite of keras_featx."
    )
    parser.add_argument("model", metavar="MODEL.tflite")
    parser.add_argument("image", nargs="*", metavar="IMAGE")
    parser.add_argument("--gallery", metavar="FILE.kfg", help="say whose image it is")
    parser.add_argument("-k", type=int, default=5, help="neighbours (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, help="cosine below which it is nobody's (default: the gallery's)"
    )
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--camera", metavar="NUMBER_OR_VIDEO", help="in place of images")
    options = parser.parse_intermixed_args(arguments)  # images may follow options
    if bool(options.image) == (options.camera is not None):
        parser.error("expected images, or --camera")
    if options.k < 1 or options.threads < 1:
        parser.error("-k and --threads: expected at least 1")
    return options


def main(arguments):
    """Run; returns the exit status."""
    options = parse(arguments)
    try:
        model = Model(options.model, options.threads)
        gallery = None
        if options.gallery:
            gallery = Gallery(options.gallery, model.fingerprint)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    threshold = options.threshold
    if threshold is None and gallery is not None:
        threshold = gallery.threshold

    def say(what, embedding, more=None):
        found = answer(embedding, gallery, options.k, threshold)
        print(json.dumps({**what, **found, **(more or {})}, ensure_ascii=False), flush=True)

    status = 0
    try:
        if options.camera is not None:
            watch(model, say, options.camera)
        for path in options.image:
            try:
                pixels = load_image(path, model.preprocess["background"])
                say({"image": path}, model.embed(pixels))
            except Refused as error:
                print(f"error: {error}", file=sys.stderr)
                status = 1
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
