"""What another decoder or another way of resizing on the device costs, on `grocery`.

Query and gallery are embedded by one `.tflite`, from pixels that were decoded and resized as in
training, and as phones, browsers and Python programs would do it. Of each way: the cosine to the
embedding of training's pixels, Recall@1 of its queries in a gallery of training's pixels (a gallery
packed on a computer), and Recall@1 with both made by it.
"""

import argparse
import base64
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import side_by_side

ROOT = side_by_side.HERE.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

from keras_featx import images, retrieval_metrics  # noqa: E402
from keras_featx.data import lists  # noqa: E402
from keras_featx.extractors import DeviceModel, read_model  # noqa: E402
from keras_featx.runtimes import open_networks  # noqa: E402

TRAINING = "training's pixels"
MIXED = "recall@1_in_training's_gallery"
CANVAS = {"Canvas": "low", "Canvas, quality high": "high"}
_SCRIPT = """
const [data, width, height, quality, done] = arguments;
(async () => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes]), {colorSpaceConversion: 'none'});
  const context = new OffscreenCanvas(width, height).getContext('2d');
  context.imageSmoothingQuality = quality;
  context.drawImage(image, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  let text = '';
  for (let i = 0; i < pixels.length; i += 4096)
    text += String.fromCharCode(...pixels.subarray(i, i + 4096));
  done(btoa(text));
})();
"""


def main() -> None:
    """Measure and write results/device_pixels.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds grocery")
    parser.add_argument(
        "--model", required=True, nargs="+", metavar="MODEL.tflite",
        help="of keras-featx export; of several sizes, as images are the more reduced the smaller",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    folder = Path(args.data) / "grocery"
    parts = [
        lists.imagenet_list(image_root=str(folder), cls_label_path=str(folder / f"{name}_list.txt"))
        for name in ("query", "gallery")
    ]
    rows, detail = [], {}
    for path in args.model:
        model = read_model(path)
        if (model.preprocess.resize, model.preprocess.antialias) != ("squash", False):
            raise SystemExit(f"{path}: expected a model that squashes images, without antialias")
        what = f"{model.image_size[0]} px"
        detail[what] = measure(model, parts)
        plain = detail[what][TRAINING]["recall@1"]
        for name, one in detail[what].items():
            side_by_side.note(f"  {what}, {name}: {one}")
            if name != TRAINING:
                rows.append(
                    side_by_side.row(
                        f"Recall@1 on grocery at {what}, queries by {name}",
                        one[MIXED], TRAINING, plain, 1.0, unit="fraction", **one,
                    )
                )  # fmt: skip
    if not args.dry_run:
        command = "python benchmarks/device_pixels.py --data DATA --model MODEL.tflite"
        if len(args.model) > 1:
            command += f" (of {len(args.model)} sizes)"
        side_by_side.write_results("device_pixels", command, rows, detail=detail)


def measure(model: DeviceModel, parts) -> dict[str, dict]:
    """Figures by the names of the ways."""
    (network,) = open_networks(model.path, model.image_size, 1).networks
    found = {
        name: [np.array([network(way(path)) for path in part.paths]) for part in parts]
        for name, way in ways(model).items()
    }
    return {name: figures(both, found[TRAINING], parts) for name, both in found.items()}


def ways(model: DeviceModel) -> dict[str, Callable[[str], np.ndarray]]:
    """From a path to uint8 ``(height, width, 3)``, by name; training's first."""
    height, width = model.image_size
    program = device_program()
    preprocess = {**vars(model.preprocess)}

    def opened(path: str) -> Image.Image:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")

    def by_opencv(how: int) -> Callable[[str], np.ndarray]:
        return lambda path: cv2.resize(cv2.imread(path), (width, height), interpolation=how)[
            ..., ::-1
        ]

    found = {
        TRAINING: lambda path: images.load(
            tf.constant(path), model.image_size, model.preprocess
        ).numpy(),
        "mobile/python": lambda path: program.prepare(
            program.load_image(path), model.image_size, preprocess
        ),
        "Pillow, bilinear": lambda path: np.asarray(
            opened(path).resize((width, height), Image.BILINEAR)
        ),
        "Pillow, bicubic": lambda path: np.asarray(
            opened(path).resize((width, height), Image.BICUBIC)
        ),
        "OpenCV, linear": by_opencv(cv2.INTER_LINEAR),
        "OpenCV, area": by_opencv(cv2.INTER_AREA),
    }
    if shutil.which("chromedriver"):
        browser = open_browser()
        for name, quality in CANVAS.items():
            found[name] = lambda path, q=quality: by_canvas(browser, path, width, height, q)
    else:
        side_by_side.note("  Canvas is left out: chromedriver is not installed")
    return found


def device_program():
    """mobile/python/embed.py as a module."""
    spec = importlib.util.spec_from_file_location("embed", ROOT / "mobile" / "python" / "embed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_browser():
    """Headless Chromium on an empty page."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # as root there is none
    service = webdriver.chrome.service.Service(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.get("data:text/html,<title>canvas</title>")
    return browser


def by_canvas(browser, path: str, width: int, height: int, quality: str) -> np.ndarray:
    """Decoded and drawn by a browser."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    text = browser.execute_async_script(_SCRIPT, data, width, height, quality)
    pixels = np.frombuffer(base64.b64decode(text), np.uint8)
    return pixels.reshape(height, width, 4)[..., :3]


def figures(found, training, parts) -> dict:
    """Of one way."""
    labels = [part.labels for part in parts]
    cosines = np.concatenate([(a * b).sum(1) for a, b in zip(found, training, strict=True)])

    def recall(query, gallery) -> float:
        result = retrieval_metrics(query, labels[0], gallery, labels[1], ks=(1,))
        return round(result["recall@1"], 4)

    return {
        "mean_cosine": round(float(cosines.mean()), 5),
        "smallest_cosine": round(float(cosines.min()), 5),
        MIXED: recall(found[0], training[1]),
        "recall@1": recall(*found),
    }


if __name__ == "__main__":
    main()
