"""What goes with packed shards: the index, the list, the class names, the manifest."""

import csv
import io
import json
import re

import numpy as np

from keras_featx.data import files, indexing, outputs, shards
from keras_featx.data import pack_plan as plans
from keras_featx.data import pack_shards as writing
from keras_featx.data.pack_plan import Plan
from keras_featx.data.samples import Samples, join

_DATASETS = {"tfrecord": "TFRecord", "tar": "WebDataset"}


def finished_before(plan: Plan) -> dict[int, writing.Done]:
    """What the manifest and the index of a complete pack say of its shards."""
    manifest, path = plan.path(".manifest.json"), plan.path(".index.npz")
    if not files.is_file(manifest) or not files.is_file(path):
        return {}
    index = shards.read_index(path)
    found = {}
    for k, shard in enumerate(json.loads(files.read_bytes(manifest))["shards"]):
        rows = slice(plan.bounds[k], plan.bounds[k + 1])
        boxes = None if index.boxes is None else index.boxes[rows]
        found[k] = writing.Done(shard["bytes"], shard["sha256"], index.spans[rows], boxes)
    return found


def complete(samples: Samples, titles: list[str], plan: Plan, done: list[writing.Done]) -> None:
    """Write what goes with the shards; the manifest last, as the mark that all is there."""
    counts = np.diff(plan.bounds)
    form = plan.options.format
    index = shards.Index(
        kind=form,
        keys=indexing.keys_of(_DATASETS[form]),
        shards=plan.shards,
        sizes=np.array([shard.size for shard in done], np.int64),
        shard=np.repeat(np.arange(len(done)), counts),
        spans=np.concatenate([shard.spans for shard in done]),
        labels=samples.labels,
        names=samples.names,
        ids=_plain(samples.ids),
        cameras=_plain(samples.cameras),
        groups=_plain(samples.groups),
        boxes=None if samples.boxes is None else np.concatenate([shard.boxes for shard in done]),
    )
    outputs.write_bytes(plan.path(".index.npz"), index.to_bytes())
    outputs.write_bytes(plan.path("_list.csv"), _list(index, titles))
    if samples.names is not None:
        lines = (f"{label} {name}\n" for label, name in enumerate(samples.names))
        outputs.write_bytes(plan.path("_classes.txt"), "".join(lines).encode())
    parts = zip(plan.shards, done, counts.tolist(), strict=True)
    manifest = plan.to_dict() | {
        "shards": [
            {"file": shard, "images": count, "bytes": part.size, "sha256": part.sha256}
            for shard, part, count in parts
        ]
    }
    outputs.write_bytes(plan.path(".manifest.json"), plans.to_json(manifest))
    if files.is_file(plan.path(".plan.json")):
        outputs.remove(plan.path(".plan.json"))
    for name in files.names_in(plan.folder):
        if re.fullmatch(rf"\.{re.escape(plan.name)}-\d+-of-.*\.(done|part)", name):
            outputs.remove(join(plan.folder, name))


def _plain(column: np.ndarray | None) -> np.ndarray | None:
    """A column of numbers or texts, without Python objects."""
    if column is None or column.dtype.kind in "iuU":
        return column
    return np.array([str(value) for value in column.tolist()])


def _list(index: shards.Index, titles: list[str]) -> bytes:
    """The index as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    optional = {
        "id": index.ids, "camera": index.cameras, "group": index.groups, "box": index.boxes
    }  # fmt: skip
    optional = {name: value.tolist() for name, value in optional.items() if value is not None}
    names = ["name"] if index.names is not None else []
    writer.writerow(["row", "path", "label", *names, *optional, "shard", "offset", "length"])
    labels, places = index.labels.tolist(), index.shard.tolist()
    for i, span in enumerate(index.spans.tolist()):
        more = [index.names[labels[i]]] if names else []
        more += [
            " ".join(map(str, value[i])) if name == "box" else value[i]
            for name, value in optional.items()
        ]
        writer.writerow([i + 1, titles[i], labels[i], *more, index.shards[places[i]], *span])
    return text.getvalue().encode("utf-8", "surrogateescape")
