"""From embedding to logits: pure margin functions under layers that own the class centres.

Importing this registers the layers, so that a saved classifier loads without `custom_objects`.
"""

from keras_featx.heads.layers import ArcMargin, Cosine, Linear

__all__ = ["ArcMargin", "Cosine", "Linear"]
