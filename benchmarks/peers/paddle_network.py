"""PaddleClas' recognition network, for workers; import it before anything else of Paddle."""

import os
import sys
import sysconfig
import tarfile  # noqa: F401 (paddle 2.6 can die at import unless these two came first)
import zlib  # noqa: F401

# PaddleClas' own modules are imported as `ppcls`, which lies inside its package.
sys.path.insert(0, os.path.join(sysconfig.get_path("purelib"), "paddleclas"))

from ppcls.arch import RecModel  # noqa: E402


def recognition_network(scale: str) -> RecModel:
    """LCNet of a scale such as ``2.5``, a 512-d linear neck, ArcMargin with 1000 classes."""
    return RecModel(
        Backbone={"name": f"PPLCNet_x{scale.replace('.', '_')}", "pretrained": False},
        BackboneStopLayer={"name": "flatten"},
        Neck={"name": "FC", "embedding_size": 1280, "class_num": 512},
        Head={
            "name": "ArcMargin",
            "embedding_size": 512,
            "class_num": 1000,
            "margin": 0.2,
            "scale": 30,
        },
    )
