"""Necks: from the backbone's feature to the embedding before normalisation."""

import math

import keras

from keras_featx.backbones import blocks


def dense(
    feature,
    *,
    embedding_size: int = 512,
    use_bias: bool = True,
    batch_norm: bool = False,
):
    """One fully connected layer, the reference's linear neck.

    Args:
        feature: Keras tensor ``(batch, features)``.
        embedding_size: Size of the embedding.
        use_bias: Whether to add a bias (initially zero).
        batch_norm: Normalise each dimension over the batch before the unit norm is taken; helps
            small networks trained from scratch.

    Returns:
        Keras tensor ``(batch, embedding_size)``, not normalised.

    Example:
        >>> import keras
        >>> from keras_featx.necks import dense
        >>> dense(keras.Input((1280,)), embedding_size=512).shape
        (None, 512)
    """
    if embedding_size < 1:
        raise ValueError(f"embedding_size: expected a positive number, got {embedding_size}")
    stddev = math.sqrt(2 / (feature.shape[-1] + embedding_size))  # Xavier, not truncated
    x = keras.layers.Dense(
        embedding_size,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
        name="neck",
    )(feature)
    return blocks.norm_act(x, None, name="neck_bn") if batch_norm else x


def bn_neck(feature, *, train_bias: bool = True):
    """Batch normalisation alone (BNNeck, arXiv:1903.07071), the neck of PP-ShiTuV2.

    Losses on embeddings and the head both see what comes after it, as in the reference.

    Args:
        feature: Keras tensor ``(batch, features)``.
        train_bias: False leaves out the shift, as the paper does, so that the origin stays where
            cosines have it. The reference's recipes mean to, by a learning rate of 1e-20 for it.

    Returns:
        Keras tensor ``(batch, features)``, not normalised to unit norm.

    Example:
        >>> import keras
        >>> from keras_featx.necks import bn_neck
        >>> bn_neck(keras.Input((512,))).shape
        (None, 512)
    """
    return blocks.norm_act(feature, None, name="neck_bn", center=train_bias)
