"""What the doctor finds of faults planted into `grocery`, and how fast it reads and compares.

5 % of the training labels are drawn anew and faults of each kind are added to a copy of the list; a
small model is trained on this noisy list itself (some minutes), or named by ``--model``.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import side_by_side
from PIL import Image

sys.path.insert(0, str(side_by_side.HERE.parent))

SHARE, SEED = 0.05, 7
# Run by itself, so that its peak memory is that of parsing alone.
PARSE = """
import json, sys, time
from side_by_side import peak_memory
from keras_featx.data.lists import imagenet_list
before, start = peak_memory(), time.perf_counter()
samples = imagenet_list(image_root=sys.argv[1], cls_label_path=sys.argv[2])
print(json.dumps([len(samples), time.perf_counter() - start, peak_memory() - before]))
"""


def main() -> None:
    """Measure and write results/doctor.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds grocery")
    parser.add_argument("--model", help="weights trained on the noisy list before")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 5_000_000])
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in args.rows:
            rows += _parsing(Path(folder), count)
        rows += _reading(Path(args.data) / "grocery")
        rows += [_comparing(100_000), _voting(50_000)]
        found, detail = _faults(Path(args.data) / "grocery", Path(folder), args.model)
    side_by_side.write_results(
        "doctor",
        "python benchmarks/doctor.py --data DATA" + (" --model MODEL" if args.model else ""),
        rows + found,
        detail=detail,
    )


def _parsing(folder: Path, count: int) -> list[dict]:
    """Rows of 1,000 identities. Each of up to 100,000 has a file of its own; more share them."""
    files = min(count, 100_000)
    for i in range(files):
        file = folder / f"{i % 1000:04}" / f"image_{i:07}.jpg"
        if i < 1000:
            file.parent.mkdir(exist_ok=True)
        file.touch()
    path = folder / "list.txt"
    with open(path, "w") as out:
        for i in range(count):
            k = i % files
            out.write(f"{k % 1000:04}/image_{k:07}.jpg {i % 1000}\n")
    env = {"PYTHONPATH": f"{side_by_side.HERE}:{side_by_side.HERE.parent}", "PATH": ""}
    command = [sys.executable, "-c", PARSE, str(folder), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    parsed, seconds, peak = json.loads(done.stdout)
    if parsed != count:
        raise SystemExit(f"expected {count} rows, got {parsed}")
    bound = 2 * count / 100_000
    return [
        _row(f"a list of {count} rows: time", "s", round(seconds, 2), "bound", bound, 1),
        _row(f"a list of {count} rows: memory", "MiB", peak, "paths as text",
             count * 22 >> 20, 0),
    ]  # fmt: skip


def _reading(data: Path) -> list[dict]:
    """Images of 160 pixels examined in a second, beside images only decoded."""
    import tensorflow as tf

    from keras_featx import images
    from keras_featx.data.lists import imagenet_list
    from keras_featx.doctor.options import Limits
    from keras_featx.doctor.scan import scan

    samples = imagenet_list(image_root=str(data), cls_label_path=str(data / "train_list.txt"))
    decode = tf.function(images.decode).get_concrete_function(tf.TensorSpec((), tf.string))
    examined, decoded = [], []
    for _ in range(3):
        start = time.perf_counter()
        scan(samples, Limits())
        examined.append(len(samples) / (time.perf_counter() - start))
        start = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda p: decode(tf.constant(Path(p).read_bytes())), samples.paths))
        decoded.append(len(samples) / (time.perf_counter() - start))
    ours, theirs = (round(statistics.median(x[1:]), 1) for x in (examined, decoded))
    return [side_by_side.row("doctor: images examined", ours, "only decoded", theirs, 0.7)]


def _comparing(count: int) -> dict:
    """Pictures that are mixtures of few, so that many are alike somewhat and none nearly."""
    from keras_featx.doctor.duplicates import candidates

    rng = np.random.default_rng(SEED)
    parts = rng.uniform(0, 255, (40, 4, 4, 3)).repeat(2, axis=1).repeat(2, axis=2)
    weight = rng.dirichlet(np.ones(40) / 8, count).astype(np.float32)
    pictures = (weight @ parts.reshape(40, -1).astype(np.float32)).reshape(count, 8, 8, 3)
    pictures = np.clip(pictures + rng.normal(0, 20, pictures.shape), 0, 255).astype(np.uint8)
    start = time.perf_counter()
    pairs = sum(len(some) for some in candidates(pictures))
    seconds = round(time.perf_counter() - start, 1)
    what = f"doctor: {count} pictures compared, {pairs} pairs worth a close look"
    return _row(what, "s", seconds, "bound", 60, 1)


def _voting(count: int) -> dict:
    """Embeddings of 256 numbers, 1,000 identities."""
    from keras_featx.doctor.wrong_labels import vote

    rng = np.random.default_rng(SEED)
    labels = rng.integers(0, 1000, count)
    embeddings = rng.normal(size=(1000, 256))[labels] + rng.normal(size=(count, 256))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    start = time.perf_counter()
    vote(embeddings.astype(np.float32), labels, np.arange(count))
    seconds = round(time.perf_counter() - start, 1)
    return _row(f"doctor: {count} images vote on labels", "s", seconds, "bound", 300, 1)


def _faults(data: Path, folder: Path, model: str | None) -> tuple[list[dict], dict]:
    from keras_featx.doctor.checkup import examine
    from keras_featx.doctor.options import Options, of_paths
    from keras_featx.weights import pretrained_config

    flipped = _write_noisy(data, folder)
    if model is None:
        model = _train(data, folder)
    planted = _plant(folder)
    config = pretrained_config(model, [f"Global.pretrained_model={model}"])
    sources = of_paths({"train": str(folder / "noisy.txt")}, str(data))
    result = examine(sources, folder / "out", Options(model=config))
    tree = json.loads((folder / "out" / "doctor.json").read_text())["findings"]
    rows = {k: {f["image"]["row"] for f in found} for k, found in tree.items()}
    missed = {k: sorted(wanted - rows.get(k, set())) for k, wanted in planted.items()}
    told = rows["wrong_labels"]
    hit = len(told & flipped)
    detail = {
        "planted": {k: len(v) for k, v in planted.items()},
        "missed": {k: v for k, v in missed.items() if v},
        "counts": result["counts"],
        "flipped": len(flipped), "suspects": len(told), "right": hit,
        "precision": round(hit / len(told), 3), "seconds": result["seconds"],
    }  # fmt: skip
    side_by_side.note(json.dumps(detail, indent=1))
    wanted = sum(map(len, planted.values()))
    seen = wanted - sum(map(len, missed.values()))
    return [
        _share("planted faults found", seen / wanted, 1.0),
        _share("flipped labels found", hit / len(flipped), 0.8),
        _share("suspects that are right, beside chance", hit / len(told), SHARE),
    ], detail


def _write_noisy(data: Path, folder: Path) -> set[int]:
    """The training list with some labels drawn anew; their rows."""
    rng = np.random.default_rng(SEED)
    rows = [row.rsplit(" ", 1) for row in (data / "train_list.txt").read_text().splitlines()]
    flipped = np.sort(rng.choice(len(rows), round(SHARE * len(rows)), replace=False))
    for i in flipped:
        other = int(rng.integers(40))
        rows[i][1] = str(other + (other >= int(rows[i][1])))
    (folder / "noisy.txt").write_text("".join(f"{data / p} {label}\n" for p, label in rows))
    return {int(i) + 1 for i in flipped}


def _train(data: Path, folder: Path) -> str:
    from keras_featx import train
    from keras_featx.config import load_config

    dataset = "DataLoader.Train.dataset"
    overrides = [
        f"{dataset}.image_root={data}",
        f"{dataset}.cls_label_path={folder / 'noisy.txt'}",
        f"output_dir={folder / 'run'}",
    ]
    train(load_config(side_by_side.HERE / "doctor.yaml", overrides))
    return str(folder / "run" / "latest")


def _plant(folder: Path) -> dict[str, set[int]]:
    """Add faults to the noisy list; rows by kind."""
    lines = (folder / "noisy.txt").read_text().splitlines()
    planted: dict[str, set[int]] = {}

    def add(kind: str, text: str) -> None:
        lines.append(text)
        planted.setdefault(kind, set()).add(len(lines))

    def write(kind: str, name: str, data: bytes, label: str) -> None:
        (folder / name).write_bytes(data)
        add(kind, f"{folder / name} {label}")

    for i in range(5):
        path, label = lines[100 * i].rsplit(" ", 1)
        data, image = Path(path).read_bytes(), Image.open(path)
        other = str((int(label) + 1) % 41)
        write("empty_files", f"e{i}.jpg", b"", label)
        write("truncated", f"t{i}.jpg", data[: len(data) // 2], label)
        write("undecodable", f"u{i}.jpg", b"no image" * 50, label)
        write("duplicates", f"d{i}.jpg", Path(lines[100 * i + 1].rsplit(" ", 1)[0]).read_bytes(),
              lines[100 * i + 1].rsplit(" ", 1)[1])  # fmt: skip
        write("conflicting_duplicates", f"c{i}.jpg", data, other)
        path, label = lines[100 * i + 2].rsplit(" ", 1)
        image = Image.open(path)
        write("near_duplicates", f"n{i}.jpg", _encoded(image, "JPEG", quality=50), label)
        half = image.resize((image.width * 4 // 5, image.height * 4 // 5))
        write("near_duplicates", f"s{i}.jpg", _encoded(half, "JPEG", quality=90), label)
        path, label = lines[100 * i + 3].rsplit(" ", 1)
        image = Image.open(path).rotate(180).crop((10, 10, 150, 140))
        write("wrong_extensions", f"w{i}.jpg", _encoded(image, "PNG"), label)
        image = image.rotate(90)
        write("cmyk", f"k{i}.jpg", _encoded(image.convert("CMYK"), "JPEG"), label)
        tall = image.resize((90, 130))
        tag = Image.Exif()
        tag[0x0112] = 6
        write("exif_rotated", f"x{i}.jpg", _encoded(tall, "JPEG", exif=tag), label)
        write("very_small", f"v{i}.png", _encoded(tall.resize((20, 16)), "PNG"), label)
        add("missing_files", f"{folder}/nothing{i}.jpg {label}")
        add("unreadable_rows", f"one_column_{i}.jpg")
    (folder / "noisy.txt").write_text("\n".join(lines) + "\n")
    return planted


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _share(what: str, ours: float, goal: float) -> dict:
    title = f"doctor on grocery: {what}"
    return side_by_side.row(title, round(ours, 3), "goal", goal, 1, unit="fraction")


def _row(what: str, unit: str, ours: float, peer: str, theirs: float, goal: float) -> dict:
    return side_by_side.row(what, ours, peer, theirs, goal, unit=unit, less=True)


if __name__ == "__main__":
    main()
