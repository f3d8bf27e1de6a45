"""Training-time augmentation: pure functions of an image and a seed.

Each builder returns ``function(image, seed) -> image`` for images ``(height, width, 3)``, values
0..255 in uint8 or float32 (a function may leave that range; it is cut at the end), except
:func:`random_resized_crop`, which chooses a window of the undecoded image and so comes first. The
seed is an int64 vector of two; the same seed gives the same image. Whole batches are mixed by
:mod:`keras_featx.augment.mixing`.
"""

import tensorflow as tf

from keras_featx import components
from keras_featx.augment.colour import color_jitter, random_grayscale, random_sharpness
from keras_featx.augment.common import MAX_OPS, Augmentation, op_seed, to_bytes
from keras_featx.augment.elastic import random_elastic
from keras_featx.augment.erasing import random_erasing
from keras_featx.augment.geometry import (
    pad_and_crop,
    random_affine,
    random_flip,
    random_resized_crop,
    random_rotation,
)
from keras_featx.augment.noise import gaussian_blur, jpeg_noise
from keras_featx.augment.policies import aug_mix, auto_augment, rand_augment
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

__all__ = [
    "MAX_OPS",
    "Augmentation",
    "apply_all",
    "aug_mix",
    "auto_augment",
    "build_augmentations",
    "color_jitter",
    "gaussian_blur",
    "jpeg_noise",
    "op_seed",
    "pad_and_crop",
    "rand_augment",
    "random_affine",
    "random_elastic",
    "random_erasing",
    "random_flip",
    "random_grayscale",
    "random_resized_crop",
    "random_rotation",
    "random_sharpness",
]


def build_augmentations(ops: tuple[Component, ...], path: str) -> tuple[Augmentation | None, list]:
    """The window function (or ``None``) and the pixel functions of ``transform_ops``."""
    window, pixel_ops = None, []
    for i, op in enumerate(ops):
        builder = components.builder("augmentation", op.name, f"{path}.{i}")
        try:
            function = builder(**op.args)
        except ValueError as error:
            raise ConfigError(f"{path}.{i}.{error}") from None
        if op.name != "RandomResizedCrop":
            pixel_ops.append(function)
        elif i == 0:
            window = function
        else:
            raise ConfigError(f"{path}.{i}: expected RandomResizedCrop first, got it at {i}")
    return window, pixel_ops


def apply_all(functions: list[Augmentation], image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Apply pixel functions to a uint8 image in order, each with a seed of its own."""
    for i, function in enumerate(functions):
        image = function(image, op_seed(seed, i + 1))
    return to_bytes(image)
