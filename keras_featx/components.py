"""Registries of pluggable parts, and their schemas read from their builders' signatures.

A registry is a dict from the name in a config to ``"module:function"``. The keyword-only
parameters of that function (or of that class' constructor), with their annotations and defaults,
are the schema of the part: nothing is declared twice. They are read from the source text, because
importing a builder imports TensorFlow, and a typo in a config should be answered before that.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from keras_featx.errors import ConfigError

REGISTRIES: dict[str, dict[str, str]] = {
    "backbone": {
        "LCNet": "keras_featx.backbones.lcnet:lcnet",
        "LCNetV2": "keras_featx.backbones.lcnet_v2:lcnet_v2",
    },
    "neck": {"Dense": "keras_featx.necks:dense", "BNNeck": "keras_featx.necks:bn_neck"},
    "head": {
        "ArcMargin": "keras_featx.heads.layers:ArcMargin",
        "CosMargin": "keras_featx.heads.layers:CosMargin",
        "CircleMargin": "keras_featx.heads.layers:CircleMargin",
        "AdaMargin": "keras_featx.heads.adaptive:AdaMargin",
        "CombinedMargin": "keras_featx.heads.layers:CombinedMargin",
        "SubCenterArcFace": "keras_featx.heads.layers:SubCenterArcFace",
        "CurricularFace": "keras_featx.heads.adaptive:CurricularFace",
        "MagFace": "keras_featx.heads.adaptive:MagFace",
        "ElasticFace": "keras_featx.heads.adaptive:ElasticFace",
        "DynamicArcMargin": "keras_featx.heads.layers:DynamicArcMargin",
        "Cosine": "keras_featx.heads.layers:Cosine",
        "Linear": "keras_featx.heads.layers:Linear",
    },
    "loss": {
        "CELoss": "keras_featx.losses.cross_entropy:CELoss",
        "CenterLoss": "keras_featx.losses.center:CenterLoss",
        "CircleLoss": "keras_featx.losses.circle:CircleLoss",
        "ContrastiveLoss": "keras_featx.losses.contrastive:ContrastiveLoss",
        "EmlLoss": "keras_featx.losses.eml:EmlLoss",
        "LiftedStructLoss": "keras_featx.losses.lifted:LiftedStructLoss",
        "MSMLoss": "keras_featx.losses.hardest:MSMLoss",
        "MultiSimilarityLoss": "keras_featx.losses.multi_similarity:MultiSimilarityLoss",
        "NpairsLoss": "keras_featx.losses.npairs:NpairsLoss",
        "PairwiseCosface": "keras_featx.losses.circle:PairwiseCosface",
        "ProxyAnchorLoss": "keras_featx.losses.proxies:ProxyAnchorLoss",
        "ProxyNCALoss": "keras_featx.losses.proxies:ProxyNCALoss",
        "SmoothAPLoss": "keras_featx.losses.smooth_ap:SmoothAPLoss",
        "SoftNearestNeighborLoss": "keras_featx.losses.soft_nearest:SoftNearestNeighborLoss",
        "SupConLoss": "keras_featx.losses.supcon:SupConLoss",
        "TriHardLoss": "keras_featx.losses.triplet:TriHardLoss",
        "TripletAngularMarginLoss": "keras_featx.losses.angular:TripletAngularMarginLoss",
        "TripletLoss": "keras_featx.losses.triplet:TripletLoss",
        "TripletLossV2": "keras_featx.losses.triplet:TripletLossV2",
        "tfsim.CircleLoss": "keras_featx.interop.tfsim:CircleLoss",
        "tfsim.MultiSimilarityLoss": "keras_featx.interop.tfsim:MultiSimilarityLoss",
        "tfsim.PNLoss": "keras_featx.interop.tfsim:PNLoss",
        "tfsim.SoftNearestNeighborLoss": "keras_featx.interop.tfsim:SoftNearestNeighborLoss",
        "tfsim.TripletLoss": "keras_featx.interop.tfsim:TripletLoss",
    },
    "distillation": {
        "EmbeddingDistillation": "keras_featx.losses.distillation:EmbeddingDistillation",
        "RelationDistillation": "keras_featx.losses.relations:RelationDistillation",
    },
    "dataset": {
        "ImageNetDataset": "keras_featx.data.lists:imagenet_list",
        "VeriWild": "keras_featx.data.lists:veri_wild_list",
        "LogoDataset": "keras_featx.data.lists:logo_list",
        "ICartoonDataset": "keras_featx.data.lists:icartoon_list",
        "CSV": "keras_featx.data.tables:csv_list",
        "ClassFolders": "keras_featx.data.folders:class_folders",
        "TFRecord": "keras_featx.data.tfrecords:tfrecords",
        "WebDataset": "keras_featx.data.tars:tars",
        "Packed": "keras_featx.data.packed:packed",
        "Given": "keras_featx.data.memory:given",
    },
    "augmentation": {
        "RandomResizedCrop": "keras_featx.augment.geometry:random_resized_crop",
        "RandomFlip": "keras_featx.augment.geometry:random_flip",
        "RandomAffine": "keras_featx.augment.geometry:random_affine",
        "RandomElastic": "keras_featx.augment.elastic:random_elastic",
        "RandomRotation": "keras_featx.augment.geometry:random_rotation",
        "PadAndCrop": "keras_featx.augment.geometry:pad_and_crop",
        "ColorJitter": "keras_featx.augment.colour:color_jitter",
        "RandomGrayscale": "keras_featx.augment.colour:random_grayscale",
        "RandomSharpness": "keras_featx.augment.colour:random_sharpness",
        "GaussianBlur": "keras_featx.augment.noise:gaussian_blur",
        "JpegNoise": "keras_featx.augment.noise:jpeg_noise",
        "RandomErasing": "keras_featx.augment.erasing:random_erasing",
        "RandAugment": "keras_featx.augment.policies:rand_augment",
        "AutoAugment": "keras_featx.augment.policies:auto_augment",
        "AugMix": "keras_featx.augment.policies:aug_mix",
    },
    "batch_augmentation": {
        "Mixup": "keras_featx.augment.mixing:mixup",
        "CutMix": "keras_featx.augment.mixing:cut_mix",
    },
    "sampler": {
        "Shuffle": "keras_featx.data.samplers.plain:shuffle",
        "PKSampler": "keras_featx.data.samplers.pk:pk_sampler",
        "IdentityBalanced": "keras_featx.data.samplers.plain:identity_balanced",
        "HardClass": "keras_featx.data.samplers.hard:hard_class",
        "CategoryAware": "keras_featx.data.samplers.categories:category_aware",
    },
    "schedule": {
        "Constant": "keras_featx.schedules:constant",
        "Cosine": "keras_featx.schedules:cosine",
        "Piecewise": "keras_featx.schedules:piecewise",
    },
    "optimizer": {
        "Momentum": "keras_featx.optimizers.rules:momentum",
        "SGD": "keras_featx.optimizers.rules:sgd",
        "Adam": "keras_featx.optimizers.rules:adam",
        "AdamW": "keras_featx.optimizers.rules:adamw",
        "Lamb": "keras_featx.optimizers.rules:lamb",
        "Lion": "keras_featx.optimizers.rules:lion",
        "Muon": "keras_featx.optimizers.rules:muon",
        "RMSprop": "keras_featx.optimizers.rules:rmsprop",
        "Nadam": "keras_featx.optimizers.rules:nadam",
        "Adamax": "keras_featx.optimizers.rules:adamax",
        "Adagrad": "keras_featx.optimizers.rules:adagrad",
        "Adadelta": "keras_featx.optimizers.rules:adadelta",
        "Adafactor": "keras_featx.optimizers.rules:adafactor",
        "Ftrl": "keras_featx.optimizers.rules:ftrl",
    },
    "regularizer": {
        "L1": "keras_featx.optimizers.rules:l1",
        "L2": "keras_featx.optimizers.rules:l2",
    },
    "metric": {
        "Recallk": "keras_featx.metrics:recall_at_k",
        "Precisionk": "keras_featx.metrics:precision_at_k",
        "mAP": "keras_featx.metrics:mean_average_precision",
        "mAPk": "keras_featx.metrics:map_at_k",
        "mAPR": "keras_featx.metrics:map_at_r",
        "RPrecision": "keras_featx.metrics:r_precision",
        "MRR": "keras_featx.metrics:mean_reciprocal_rank",
        "mINP": "keras_featx.metrics:mean_inverse_negative_penalty",
        "NDCGk": "keras_featx.metrics:ndcg_at_k",
        "ROCAUC": "keras_featx.verification:roc_auc",
        "TARFAR": "keras_featx.verification:tar_at_far",
    },
    "ranking": {
        "QueryExpansion": "keras_featx.reranking:query_expansion",
        "DatabaseAugmentation": "keras_featx.reranking:database_augmentation",
        "Whitening": "keras_featx.reranking:fit_pca",
        "KReciprocal": "keras_featx.reranking:k_reciprocal",
    },
}

REQUIRED = object()


@dataclass(frozen=True, kw_only=True)
class Component:
    """A pluggable part: its registered name and the arguments its builder gets."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Back to the flat form of the YAML: ``{name: ..., **args}``."""
        return {"name": self.name, **self.args}


def part(
    kind: str, default: Any = dataclasses.MISSING, many: bool = False, inline: bool = False
) -> Any:
    """Declare a dataclass field holding a component (or a list of them) of a registry.

    The keys of an ``inline`` component stand beside those of its section.
    """
    metadata = {"kind": kind, "many": many, "inline": inline}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default_factory=lambda: default, metadata=metadata)


@dataclass(frozen=True)
class Parameter:
    """One argument of a part: its type, and its default or :data:`REQUIRED`."""

    name: str
    annotation: Any
    default: Any


def closest(name: str, choices: list[str]) -> str:
    """``"; did you mean 'x'?"`` where a choice resembles the name, else an empty string."""
    match = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
    lowered = {c.lower(): c for c in choices}
    if not match and str(name).lower() in lowered:
        match = [lowered[str(name).lower()]]
    return f"; did you mean {match[0]!r}?" if match else ""


def target(kind: str, name: str, path: str) -> str:
    """The ``"module:function"`` of a registered part; refuses an unknown name."""
    registry = REGISTRIES[kind]
    if name not in registry:
        known = sorted(registry)
        raise ConfigError(
            f"{path}.name: expected one of {known}, got {name!r}{closest(name, known)}"
        )
    return registry[name]


def builder(kind: str, name: str, path: str = "") -> Callable[..., Any]:
    """Import and return the function or class behind a registered name."""
    module, attribute = target(kind, name, path or kind).split(":")
    return getattr(importlib.import_module(module), attribute)


def parameters(kind: str, name: str, path: str) -> dict[str, Parameter]:
    """The schema of a registered part, by argument name, read without importing it."""
    return _read_parameters(target(kind, name, path))


@functools.cache
def _read_parameters(where: str) -> dict[str, Parameter]:
    module, attribute = where.split(":")
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if getattr(n, "name", None) == attribute)
    found = {}
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if getattr(n, "name", None) == "__init__"]
        if not inits or inits[0].args.kwarg:  # what it takes besides is for the class above
            for base in node.bases:
                if isinstance(base, ast.Name):
                    found |= _read_parameters(_where_defined(tree, module, base.id))
        if not inits:
            return found
        node = inits[0]
    arguments = node.args
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.annotation is None:  # Keras' own, such as a loss' `reduction`
            continue
        # Our own annotations, such as `int | None` or `tuple[float, ...]`.
        annotation = eval(ast.unparse(argument.annotation), {"Literal": Literal})  # noqa: S307
        value = REQUIRED if default is None else ast.literal_eval(default)
        found[argument.arg] = Parameter(argument.arg, annotation, value)
    return found


def _where_defined(tree: ast.Module, module: str, name: str) -> str:
    """The ``"module:name"`` of a class that a module defines or imports."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return f"{node.module}:{name}"
    return f"{module}:{name}"


def _source(module: str) -> Path:
    """The file of a module. Asking Python for it would import the packages around it."""
    package, *rest = module.split(".")
    return Path(importlib.util.find_spec(package).origin).parent.joinpath(*rest).with_suffix(".py")
