"""The programs of `mobile/` beside what a user of LiteRT writes in Python, all with one thread.

Each is a process that embeds one image, or many, from encoded files; the difference is the time of
an image, with decoding, resizing and writing the answer, and the first is start and loading. They
take turns. The browser is measured inside, as it has a start of its own. Peak memory is that of the
process; of the browser it is what the page adds to an empty one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import side_by_side

ROOT = side_by_side.HERE.parent
MOBILE = ROOT / "mobile"
PEERS = side_by_side.HERE / "peers"
BARE = "LiteRT and Pillow"
ANDROID = MOBILE / "android" / "library" / "src" / "main" / "kotlin"


def main() -> None:
    """Measure and write results/edge.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, metavar="MODEL.tflite")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="of JPEG files")
    parser.add_argument("--count", type=int, default=201, help="images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--kotlin", metavar="FOLDER", help="of Kotlin's compiler")
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    model = str(Path(args.model).resolve())
    images = [str(path) for path in sorted(Path(args.images).rglob("*.jpg"))[: args.count]]
    if len(images) < args.count:
        raise SystemExit(f"{args.images}: expected {args.count} .jpg files, got {len(images)}")
    with tempfile.TemporaryDirectory() as work:
        commands, sizes = programs(Path(work), args.kotlin)
        found = {name: {"one": [], "many": [], "mib": []} for name in commands}
        for round_ in range(args.rounds + 1):
            for name, command in commands.items():
                one, _ = timed([*command, model, *images[:1]])
                many, mib = timed([*command, model, *images])
                if round_:  # the first one fills the caches of the system
                    found[name]["one"].append(one)
                    found[name]["many"].append(many)
                    found[name]["mib"].append(mib)
    detail = {name: figures(one, len(images), sizes[name]) for name, one in found.items()}
    if (browser := browse(model, images)) is not None:
        detail["mobile/web"] = browser
    for name, one in detail.items():
        side_by_side.note(f"  {name}: {one}")
    if not args.dry_run:
        command = "python benchmarks/edge.py --model MODEL.tflite --images DATA/grocery/images"
        command += " --kotlin KOTLIN" if args.kotlin else ""
        more = {"images": len(images), "model_bytes": os.path.getsize(model)}
        side_by_side.write_results("edge", command, rows(detail), detail=detail, **more)


def programs(work: Path, kotlin: str | None) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The start of each command line, and bytes of what a device needs besides the model."""
    import ai_edge_litert

    runtime = Path(ai_edge_litert.__file__).parent
    library = (runtime / "libLiteRt.so").stat().st_size
    script = MOBILE / "python" / "embed.py"
    wrapper = (runtime / "libpywrap_litert_common.so").stat().st_size
    commands = {
        BARE: [sys.executable, str(PEERS / "bare_litert.py")],
        "mobile/python": [sys.executable, str(script)],
    }
    sizes = {BARE: wrapper, "mobile/python": wrapper + script.stat().st_size}
    native = work / "native"
    how = [f"-DLITERT_DIR={runtime}"] + (["-DKERAS_FEATX_JNI=ON"] if kotlin else [])
    run(["cmake", "-S", MOBILE / "cpp", "-B", native, *how])
    run(["cmake", "--build", native])
    run(["strip", native / "embed"])
    commands["mobile/cpp"] = [str(native / "embed")]
    sizes["mobile/cpp"] = library + (native / "embed").stat().st_size
    if kotlin:
        jar = work / "edge.jar"
        sources = [*ANDROID.rglob("*.kt"), PEERS / "EdgeJvm.kt"]
        run(["bash", Path(kotlin) / "bin" / "kotlinc", *sources, "-include-runtime", "-d", jar])
        jni = native / "libkeras_featx_jni.so"
        run(["strip", jni])
        java = ["java", f"-Djava.library.path={native}", "-cp", str(jar), "kerasfeatx.EdgeJvmKt"]
        commands["mobile/android on a JVM"] = java
        sizes["mobile/android on a JVM"] = library + jni.stat().st_size + jar.stat().st_size
    return commands, sizes


def run(command) -> None:
    """What must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of a process that answers every image, and its peak memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.stdout.close(), process.stderr.close()
    wanted = sum(one.endswith(".jpg") for one in command)
    if status or output.count(b"\n") != wanted:
        raise SystemExit(f"{command[0]}: expected {wanted} answers: {errors.decode()}")
    return seconds, usage.ru_maxrss / 1024


def figures(one: dict[str, list[float]], count: int, size: int) -> dict[str, float]:
    """Medians over the rounds."""
    each = [
        (many - first) / (count - 1) for first, many in zip(one["one"], one["many"], strict=True)
    ]
    return {
        "image_ms": round(1000 * statistics.median(each), 2),
        "first_image_ms": round(1000 * statistics.median(one["one"]), 1),
        "peak_mib": round(statistics.median(one["mib"]), 1),
        "program_mb": round(size / 1e6, 2),
    }


def browse(model: str, images: list[str]) -> dict[str, float] | None:
    """Likewise in a browser; ``None`` where it cannot be run."""
    if not (MOBILE / "web" / "node_modules").is_dir() or shutil.which("node") is None:
        side_by_side.note("  the browser is left out: run npm ci in mobile/web")
        return None
    # Also what a visit loads: the page with its runtime for browsers with all of SIMD.
    run(["npm", "--prefix", MOBILE / "web", "run", "build"])
    done = subprocess.run(
        ["node", str(PEERS / "edge_browser.mjs"), model, *images], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    dist = MOBILE / "web" / "dist"
    loaded = [
        path
        for path in dist.rglob("*")
        if path.is_file() and "compat" not in path.name and path.suffix not in (".tflite", ".kfg")
    ]
    packed = sum(len(zlib.compress(path.read_bytes(), 9)) for path in loaded)
    return {
        "image_ms": round(statistics.median(found["times"][1:]), 2),
        "first_image_ms": round(found["load"] + found["times"][0], 1),
        "peak_mib": round(found["mib"], 1),
        "program_mb": round(packed / 1e6, 2),
    }


def rows(detail: dict[str, dict[str, float]]) -> list[dict]:
    """Each program beside the bare interpreter."""
    words = {
        "image_ms": ("an image", "ms", None),
        "first_image_ms": ("start and first image", "ms", None),
        "peak_mib": ("peak memory", "MiB", None),
        "program_mb": ("size besides the model", "MB", None),
    }
    bare = detail[BARE]
    return [
        side_by_side.row(
            f"{name}: {what}", one[key], BARE, bare[key], goal, unit=unit, less=True
        )
        for name, one in detail.items()
        if name != BARE
        for key, (what, unit, goal) in words.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
