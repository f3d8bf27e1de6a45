"""Image feature extraction by deep metric learning for TensorFlow and Keras.

Names are imported when they are first used, so that ``import keras_featx`` and the command line's
``--help`` do not wait for TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING

from keras_featx._version import __version__
from keras_featx.config import dump_config, load_config
from keras_featx.errors import ConfigError, RunError

if TYPE_CHECKING:
    from keras_featx.client import Client
    from keras_featx.device_gallery import pack_gallery
    from keras_featx.embedding import embed
    from keras_featx.evaluation import evaluate, evaluate_sets
    from keras_featx.exporters import export
    from keras_featx.exporters.verify import verify
    from keras_featx.gallery.collection import Gallery
    from keras_featx.models import (
        build_classifier,
        build_model,
        compile_classifier,
        load_model,
    )
    from keras_featx.monitoring import RetrievalCallback
    from keras_featx.prediction import predict
    from keras_featx.retrieval import retrieval_metrics
    from keras_featx.training import train

_LAZY = {
    "Client": "keras_featx.client",
    "Gallery": "keras_featx.gallery.collection",
    "RetrievalCallback": "keras_featx.monitoring",
    "build_classifier": "keras_featx.models",
    "build_model": "keras_featx.models",
    "compile_classifier": "keras_featx.models",
    "embed": "keras_featx.embedding",
    "evaluate": "keras_featx.evaluation",
    "evaluate_sets": "keras_featx.evaluation",
    "export": "keras_featx.exporters",
    "load_model": "keras_featx.models",
    "pack_gallery": "keras_featx.device_gallery",
    "predict": "keras_featx.prediction",
    "retrieval_metrics": "keras_featx.retrieval",
    "train": "keras_featx.training",
    "verify": "keras_featx.exporters.verify",
}

__all__ = [
    "Client",
    "ConfigError",
    "Gallery",
    "RetrievalCallback",
    "RunError",
    "__version__",
    "build_classifier",
    "build_model",
    "compile_classifier",
    "dump_config",
    "embed",
    "evaluate",
    "evaluate_sets",
    "export",
    "load_config",
    "load_model",
    "pack_gallery",
    "predict",
    "retrieval_metrics",
    "train",
    "verify",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
