"""Imports go one way, and modules stay small enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "keras_featx"

# From the bottom up: a module may import what stands in an earlier row.
LAYERS = [
    [
        "_version",
        "errors",
        "interrupts",
        "backbones",
        "data",
        "data.sniff",
        "doctor",
        "similarities",
        "chunks",
        "labelled",
        "counting",
        "search_backends",
        "serving",
        "serving.refusals",
    ],
    [
        "serving.json_text",
        "serving.workers",
        "runtimes",
        "serving.metrics",
        "serving.options",
        "serving.tokens",
        "client",
    ],
    ["serving.bodies"],
    ["interop.pickled_arrays"],
    ["interop.pickles"],
    ["data.files", "data.records", "data.examples", "progress", "search"],
    ["interop.paddle_programs"],
    ["interop.paddle_files"],
    ["data.outputs", "matching", "serving.instances", "serving.gallery"],
    ["serving.descriptions"],
    ["components", "metrics", "verification", "schedules", "bmp", "exif", "opencv_resizing"],
    ["augment.common", "augment.operations", "results", "reranking", "paddle_protocol"],
    ["neighbours", "compact"],
    ["retrieval"],
    [
        "augment.elastic",
        "augment.geometry",
        "augment.colour",
        "augment.noise",
        "augment.erasing",
        "augment.policies",
    ],
    [
        "optimizer_section",
        "evaluation_sections",
        "export_section",
        "distillation_section",
        "decoding",
    ],
    ["sections"],
    ["config", "resizing", "ranking"],
    ["fingerprints", "gallery_file", "gallery", "gallery.segments"],
    ["gallery.versions", "gallery.items", "gallery.exact"],
    ["gallery.indexes", "gallery.milvus_backend"],
    ["gallery.backends"],
    ["gallery.opened"],
    ["gallery.collection", "gallery.neighbourhoods"],
    ["gallery.means"],
    ["gallery.decisions", "gallery.identities"],
    ["gallery.calibration"],
    ["gallery.open_set"],
    ["backbones.normalization", "heads.margins", "losses.cross_entropy", "losses.pairs"],
    ["augment.mixing"],
    ["backbones.blocks", "images", "augment", "data.samples", "distribute", "losses.miners"],
    ["data.labels", "data.faults"],
    ["data.lists", "data.shards", "data.encoding"],
    ["doctor.headers", "doctor.alignment", "doctor.findings", "serving.folders"],
    ["serving.headers"],
    ["serving.embedder"],
    ["doctor.options", "doctor.labels", "doctor.words"],
    ["heads.softmax", "losses.layers", "data.tables", "data.folders", "data.memory"],
    ["data.indexing", "data.packed", "data.pack_plan", "data.pack_shards", "gallery.regions"],
    ["data.tfrecords", "data.tars", "data.pack_images", "data.pack_index"],
    ["data.pack"],
    ["heads.base", "losses.angular", "losses.center", "losses.circle", "losses.contrastive"],
    ["losses.distillation"],
    ["losses.eml", "losses.hardest", "losses.lifted", "losses.multi_similarity", "losses.npairs"],
    ["losses.proxies", "losses.smooth_ap", "losses.soft_nearest", "losses.supcon"],
    ["losses.relations"],
    ["heads.layers", "losses.triplet"],
    ["heads.adaptive", "losses", "interop"],
    ["interop.tfsim"],
    ["data.samplers.order"],
    ["data.samplers.identities"],
    ["data.samplers.plain", "data.samplers.pk"],
    ["data.samplers.hard", "data.samplers.categories"],
    ["backbones.lcnet", "backbones.lcnet_v2", "heads", "necks", "data.samplers"],
    ["interop.paddle_weights"],
    ["weights", "data.pipeline", "averaging"],
    ["optimizers.parts", "optimizers.local"],
    ["optimizers.updates"],
    ["optimizers.classes"],
    ["optimizers", "optimizers.rules"],
    ["models", "callbacks", "report", "report.plots", "report.page", "report.pictures"],
    [
        "report.doctor_page",
        "report.charts",
        "report.wording",
        "doctor.clean",
        "report.gallery_plots",
        "report.gallery_view",
    ],
    ["views", "interop.paddle"],
    ["embedding", "evaluation_data"],
    ["extractors"],
    ["gallery.sources", "gallery.scenes", "distilling"],
    ["serving.galleries", "serving.gallery_items"],
    ["serving.service"],
    ["serving.answering"],
    ["serving.gallery_routes"],
    ["serving.app", "serving.server"],
    ["gallery.filling", "report.gallery_pictures"],
    ["checkpoints", "evaluation", "exporters.graph", "exporters.warmup", "exporters.deploy"],
    ["monitoring", "report.panels", "report.spread"],
    ["report.views", "report.gallery_panels", "report.gallery_charts"],
    ["report.set_page", "report.set_charts", "report.run_facts", "report.gallery_page"],
    ["gallery.answering"],
    ["report.run_page"],
    ["doctor.scan", "doctor.duplicates", "doctor.wrong_labels"],
    ["doctor.contents", "doctor.thumbnails"],
    ["doctor.copies"],
    ["doctor.checkup"],
    ["exporters.tflite_metadata", "device_gallery"],
    ["exporters.saved_model", "exporters.litert", "exporters.onnx_file", "exporters.gate"],
    ["exporters.quantize", "exporters.measuring", "prediction"],
    ["exporters.card", "exporters.source"],
    ["exporters.writing"],
    ["exporters", "exporters.verify", "training_data", "packing"],
    ["training", "preview", "evaluation_vectors"],
    ["interop.paddle_sections"],
    ["interop.paddle_data_config"],
    ["interop.paddle_config"],
    ["bulk"],
    [
        "interop.options",
        "bulk_options",
        "quickstart",
        "gallery_options",
        "gallery_commands",
        "compress",
    ],
    ["cli"],
]
RANK = {module: i for i, row in enumerate(LAYERS) for module in row}
FRAMEWORK_FREE = ["config", "components", "sections", "errors", "metrics", "search", "schedules"]
FRAMEWORK_FREE += [
    "similarities",
    "matching",
    "verification",
    "results",
    "labelled",
    "reranking",
    "retrieval",
    "neighbours",
    "compact",
]
FRAMEWORK_FREE += [
    "export_section",
    "client",
    "serving.options",
    "serving.folders",
    "serving.json_text",
]
FRAMEWORK_FREE += [
    "interop.options",
    "compress",
    "interop.paddle_files",
    "interop.pickles",
    "gallery_options",
    "doctor.options",
    "doctor.headers",
    "doctor.alignment",
]
FRAMEWORK_FREE += ["data.lists", "data.tables", "data.folders", "data.labels", "data.files"]
FRAMEWORK_FREE += ["data.sniff", "data.tfrecords", "data.tars", "data.packed"]
FILES = sorted(p for p in PACKAGE.rglob("*.py"))


def name_of(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def imported(file, top_level_only=True):
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_one_way(file):
    name = name_of(file)
    if not name:
        return  # the package itself re-exports lazily
    assert name in RANK, f"{name}: give the new module a place in LAYERS"
    for target in imported(file):
        inner = target.removeprefix("keras_featx.")
        if target.startswith("keras_featx.") and inner in RANK and not name.startswith(inner):
            own = inner.startswith(f"{name}.")  # a package over its own modules
            assert own or RANK[inner] < RANK[name], f"{name} imports {inner}"


@pytest.mark.parametrize("name", FRAMEWORK_FREE)
def test_modules_below_import_no_framework(name):
    code = (
        f"import sys, keras_featx.{name}\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_modules_and_functions_stay_small(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 330, "split the module"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 70, f"{node.name}: {length} lines"


def test_no_package_of_ours_shadows_a_common_name():
    """tf2onnx and others install top-level `tests` and `tools`: ours are never imported by name."""
    for file in FILES:
        for target in imported(file, top_level_only=False):
            assert target.split(".")[0] not in {"tests", "tools", "examples"}, file


def test_the_linter_finds_nothing():
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([*ruff, *command], cwd=PACKAGE.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
