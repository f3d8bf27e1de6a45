"""The data sections of PaddleClas' configs as ours: lists, transforms, samplers."""

from collections.abc import Mapping
from typing import Any

from keras_featx.interop.paddle_sections import (
    drop,
    leftover,
    one_key,
    parts_of,
    refused,
    required,
    section_of,
    tell,
)

_LISTS = {
    "ImageNetDataset": "ImageNetDataset", "ClsDataset": "ImageNetDataset",
    "ShiTuRecDataset": "ImageNetDataset", "VeriWild": "VeriWild", "LogoDataset": "LogoDataset",
    "ICartoonDataset": "ICartoonDataset",
}  # fmt: skip
_ERASING = {"const": "constant", "rand": "colour", "pixel": "pixel"}
_IDLE_LOADER = ("num_workers", "use_shared_memory", "prefetch_factor")


def convert_train(section: Mapping[str, Any], arch: dict, notes: list[str]) -> dict[str, Any]:
    """``DataLoader.Train``; ``arch`` gets the preprocessing and is checked against it."""
    path = "DataLoader.Train"
    section = section_of({"Train": section}, "Train", "DataLoader")
    dataset, operations = _dataset(section, path, notes)
    _preprocess(operations, arch, path, notes, of_training=True)
    ours = []
    names = [name for _, name, _ in operations]
    for i, (where, name, given) in enumerate(operations):
        pair = ("Pad", "RandCropImageV2")
        if name in pair and tuple(names[i - (name == pair[1]) :][:2]) != pair:
            raise refused(where, "Pad and RandCropImageV2 one behind the other", name)
        ours += _augmentation(where, name, given, arch, notes)
    if ours:
        dataset["transform_ops"] = ours
    found = {"dataset": dataset, "sampler": _sampler(section, path, notes)}
    leftover(section, path)
    return found


def convert_eval(section: Mapping[str, Any], arch: dict, notes: list[str]) -> dict[str, Any]:
    """``DataLoader.Eval``: one list for both, or query and gallery."""
    path = "DataLoader.Eval"
    section = section_of({"Eval": section}, "Eval", "DataLoader")
    if "dataset" in section:
        tell(notes, path, "one list is both query and gallery here")
        section = {"Query": section, "Gallery": section}
    elif len(section) == 1:
        ((only, part),) = section.items()
        tell(notes, f"{path}.{only}", "is both query and gallery")
        section = {"Query": part, "Gallery": part}
    found = {}
    for name in ("Query", "Gallery"):
        part, where = section_of(section, name, path), f"{path}.{name}"
        if not part:
            raise refused(where, "a list, as there is one of the other")
        dataset, operations = _dataset(part, where, notes)
        _preprocess(operations, arch, where, notes, of_training=False)
        for at, what, _ in operations:
            raise refused(at, "no augmentation in evaluation", what)
        sampler = _sampler(part, where, notes)
        found[name] = {"dataset": dataset, "batch_size": sampler["batch_size"]}
        leftover(part, where)
    leftover(section, path)
    return found


def size_of(value: Any, path: str) -> list[int]:
    """``[height, width]`` of a size in the reference's words, which has the width first."""
    if isinstance(value, int):
        return [value, value]
    if isinstance(value, list) and len(value) == 2:
        return value[::-1]
    raise refused(path, "a number, or [width, height]", value)


def _dataset(section: dict, path: str, notes: list[str]) -> tuple[dict, list[tuple]]:
    """The list, and its transforms: (path, name, arguments) each."""
    where = f"{path}.dataset"
    dataset = section_of(section, "dataset", path)
    name = dataset.pop("name", None)
    if name not in _LISTS:
        raise refused(f"{where}.name", f"one of {', '.join(_LISTS)}", name)
    ours = {"name": _LISTS[name]}
    if ours["name"] != name:
        tell(notes, f"{where}.name", f"{name} is {ours['name']}")
    if dataset.pop("relabel", False) or name == "ShiTuRecDataset":
        ours["labels"] = "names"
        tell(
            notes, f"{where}.relabel", "is labels: names: any of them, numbered by their order here"
        )
    operations = [
        (f"{where}.transform_ops.{i}", *one_key(part, f"{where}.transform_ops.{i}"))
        for i, part in enumerate(parts_of(dataset, "transform_ops", where))
    ]
    if dataset.pop("batch_transform_ops", None):
        raise refused(f"{where}.batch_transform_ops", "none in a recognition config")
    for key in ("image_root", "cls_label_path", "delimiter"):
        if key in dataset:
            ours[key] = dataset.pop(key)
    drop(dataset, ("backend",), where, notes)
    leftover(dataset, where)
    loader = section_of(section, "loader", path)
    drop(loader, _IDLE_LOADER, f"{path}.loader", notes)
    leftover(loader, f"{path}.loader")
    return ours, operations


def _preprocess(
    operations: list, arch: dict, path: str, notes: list[str], of_training: bool
) -> None:
    """Take decoding, resizing and normalisation out of the transforms into ``arch``."""
    wanted: dict[str, Any] = {}
    for item in list(operations):
        where, name, given = item
        if name == "DecodeImage":
            if given.get("to_rgb", True) is not True:
                raise refused(f"{where}.{name}.to_rgb", "true", given["to_rgb"])
        elif name == "ResizeImage":
            _resize(f"{where}.{name}", given, arch, wanted)
        elif name == "CropImage":
            _same_size(f"{where}.{name}.size", given.get("size"), arch)
        elif name == "NormalizeImage":
            scale = given.get("scale", "1.0/255.0")
            if str(scale) not in ("1.0/255.0", "1/255", "0.00392157"):
                raise refused(f"{where}.{name}.scale", "1.0/255.0", scale)
            wanted |= {key: given[key] for key in ("mean", "std") if key in given}
        elif name != "ToCHWImage":
            continue
        operations.remove(item)
    before = arch.setdefault("Preprocess", {})
    for key, value in wanted.items():
        if key not in before and (of_training or key in ("resize", "resize_short")):
            before[key] = value
        elif before.setdefault(key, value) != value:
            raise refused(f"{path}.dataset.transform_ops", f"{key} {before[key]}", value)
    if wanted:
        note = f"{path}.dataset.transform_ops: decoding and normalisation are Arch.Preprocess"
        if note not in notes:
            notes.append(note)


def _resize(where: str, given: dict, arch: dict, wanted: dict) -> None:
    if "resize_short" in given:
        wanted |= {"resize": "crop", "resize_short": given["resize_short"]}
    else:
        _same_size(f"{where}.size", given.get("size"), arch)
    if given.get("interpolation", "bilinear") not in ("bilinear", None):
        raise refused(f"{where}.interpolation", "bilinear", given["interpolation"])
    backend = given.get("backend", "cv2")
    if backend not in ("cv2", "pil"):
        raise refused(f"{where}.backend", "cv2 or pil", backend)
    if backend == "pil":
        wanted["antialias"] = True
    else:
        wanted["backend"] = "opencv"


def _same_size(where: str, size: Any, arch: dict) -> None:
    if size_of(size, where) != list(arch["image_size"]):
        raise refused(where, f"Arch.image_size {arch['image_size']}", size)


def _augmentation(where: str, name: str, given: dict, arch: dict, notes: list[str]) -> list[dict]:
    path = f"{where}.{name}"
    if name == "RandCropImage":
        _same_size(f"{path}.size", required(given, "size", path), arch)
        ours = {"name": "RandomResizedCrop", "draw": "reference"}
        ours |= {key: given.pop(key) for key in ("scale", "ratio") if key in given}
    elif name == "RandFlipImage":
        code = given.pop("flip_code", 1)
        if code not in (0, 1):
            raise refused(f"{path}.flip_code", "1 (sideways) or 0", code)
        ours = {"name": "RandomFlip"} | ({} if code else {"direction": "vertical"})
    elif name == "Pad":
        given.pop("backend", None)
        ours = {"name": "PadAndCrop", "pixels": required(given, "padding", path)}
    elif name == "RandCropImageV2":
        _same_size(f"{path}.size", required(given, "size", path), arch)
        leftover(given, path)
        tell(notes, path, "is part of PadAndCrop")
        return []
    elif name == "RandomRotation":
        if (how := given.pop("interpolation", "bilinear")) != "bilinear":
            raise refused(f"{path}.interpolation", "bilinear", how)
        ours = {"name": "RandomRotation", "probability": given.pop("prob", 0.5)}
        ours["degrees"] = given.pop("degrees", 90)
    elif name == "AugMix":
        ours = {"name": "AugMix", "probability": given.pop("prob", 0.5)}
    elif name == "RandomErasing":
        if any(given.pop("mean", [0.0])):
            raise refused(f"{path}.mean", "zeros, the mean of all images")
        ours = {"name": "RandomErasing", "probability": given.pop("EPSILON", 0.5)}
        ours["area"] = [given.pop("sl", 0.02), given.pop("sh", 0.4)]
        ours["ratio"] = given.pop("r1", 0.3)
        mode = given.pop("mode", "const")
        if mode not in _ERASING:
            raise refused(f"{path}.mode", f"one of {', '.join(_ERASING)}", mode)
        ours["mode"] = _ERASING[mode]
        drop(given, ("attempt", "use_log_aspect"), path, notes)
    else:
        raise refused(where, "a transform of the recognition configs", name)
    leftover(given, path)
    if ours["name"] != name:
        tell(notes, path, f"is {ours['name']}")
    return [ours]


def _sampler(section: dict, path: str, notes: list[str]) -> dict[str, Any]:
    sampler, where = section_of(section, "sampler", path), f"{path}.sampler"
    name = sampler.pop("name", None)
    ours: dict[str, Any] = {"batch_size": sampler.pop("batch_size", None)}
    if name in ("DistributedBatchSampler", "BatchSampler"):
        ours["name"] = "Shuffle"
    elif name in ("PKSampler", "DistributedRandomIdentitySampler"):
        images = "sample_per_id" if name == "PKSampler" else "num_instances"
        ours |= {"name": "PKSampler", "sample_per_id": required(sampler, images, where)}
        if "sample_method" in sampler:
            ours["sample_method"] = sampler.pop("sample_method")
        if "id_list" in sampler or "ratio" in sampler:
            tell(notes, f"{where}.id_list", "shares of lists are CategoryAware here: left out")
            sampler.pop("id_list", None)
            sampler.pop("ratio", None)
    else:
        raise refused(f"{where}.name", "DistributedBatchSampler or PKSampler", name)
    if path == "DataLoader.Train" and not sampler.get("shuffle", True):
        raise refused(f"{where}.shuffle", "true in training", sampler["shuffle"])
    drop(sampler, ("drop_last", "shuffle", "max_iters"), where, notes)
    leftover(sampler, where)
    if path == "DataLoader.Train":
        tell(notes, f"{where}.batch_size", "is that of one GPU there, of all together here")
    return ours
