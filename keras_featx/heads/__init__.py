"""From embedding to logits: pure margin functions under layers that own the class centres.

Importing this registers the layers, so that a saved classifier loads without `custom_objects`.
"""

from keras_featx.heads.adaptive import AdaMargin, CurricularFace, ElasticFace, MagFace
from keras_featx.heads.layers import (
    ArcMargin,
    CircleMargin,
    CombinedMargin,
    Cosine,
    CosMargin,
    DynamicArcMargin,
    Linear,
    SubCenterArcFace,
)

__all__ = [
    "AdaMargin",
    "ArcMargin",
    "CircleMargin",
    "CombinedMargin",
    "CosMargin",
    "Cosine",
    "CurricularFace",
    "DynamicArcMargin",
    "ElasticFace",
    "Linear",
    "MagFace",
    "SubCenterArcFace",
]
