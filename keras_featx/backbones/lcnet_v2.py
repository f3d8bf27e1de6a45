"""PP-LCNetV2, the backbone of PP-ShiTuV2: depthwise branches become one convolution at export."""

import keras

from keras_featx.backbones import blocks

# Channels in, of scale 1; kernel, then: pointwise in two steps, parallel branches, squeeze-excite,
# shortcut; and how many blocks. Channels double in the first block of each stage.
STAGES = (
    (64, 3, False, False, False, False, 2),
    (128, 3, False, False, False, False, 2),
    (256, 5, True, True, True, False, 6),
    (512, 5, False, True, False, True, 2),
)
STEM_CHANNELS = 32


def lcnet_v2(
    inputs,
    *,
    scale: float = 1.0,
    class_expand: int = 512,
    dropout: float = 0.2,
    dropout_scales_inference: bool = False,
    stride_list: tuple[int, int, int, int, int] = (2, 2, 2, 2, 1),
):
    """PP-LCNetV2 base from a normalised image to a feature vector, by default as in PP-ShiTuV2.

    Its large depthwise convolutions have smaller ones beside them in training, each with its own
    batch normalisation, which :func:`keras_featx.export` adds up into one (as in RepVGG,
    arXiv:2101.03697).

    Args:
        inputs: Keras tensor ``(batch, height, width, 3)``.
        scale: Width multiplier; channels are rounded as those of
            :func:`keras_featx.backbones.lcnet.lcnet`.
        class_expand: Size of the feature (of the last convolution, which has a bias and no
            activation); does not scale.
        dropout: Rate of dropout on the feature, in [0, 1).
        dropout_scales_inference: As of :func:`keras_featx.backbones.lcnet.lcnet`.
        stride_list: Strides of the stem and of the first block of each stage. PP-ShiTuV2 has 1 in
            the last stage; networks for ImageNet have 2.

    Returns:
        Keras tensor ``(batch, class_expand)``.

    Raises:
        ValueError: On an impossible argument.

    Example:
        >>> import keras
        >>> from keras_featx.backbones.lcnet_v2 import lcnet_v2
        >>> image = keras.Input((224, 224, 3))
        >>> lcnet_v2(image).shape
        (None, 512)
    """
    _check(scale, class_expand, dropout, stride_list)
    stem, *stage_strides = stride_list

    x = blocks.conv(inputs, blocks.width(STEM_CHANNELS, scale), 3, stride=stem, name="stem_0_conv")
    x = blocks.norm_act(x, "relu", name="stem_0_bn")
    x = _block(x, blocks.width(2 * STEM_CHANNELS, scale), 3, name="stem_1")
    for stage, (channels, kernel_size, split, rep, gated, shortcut, count) in enumerate(STAGES):
        for i in range(count):
            x = _block(
                x,
                blocks.width(2 * channels, scale),
                kernel_size,
                stride=stage_strides[stage] if i == 0 else 1,
                split=split,
                rep=rep,
                gated=gated,
                shortcut=shortcut and i > 0,
                name=f"stages_{stage}_{i}",
            )
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = blocks.conv(x, class_expand, 1, name="last_conv", bias=True)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    if dropout_scales_inference:
        # Keras divides by (1 - rate) in training; multiplying always gives the reference.
        x = keras.layers.Rescaling(1 - dropout, name="dropout_scale")(x)
    return x


def branch_sizes(kernel_size: int, stride: int) -> list[int]:
    """Kernels of parallel branches: each odd size, but 1 only where nothing is skipped.

    Example:
        >>> from keras_featx.backbones.lcnet_v2 import branch_sizes
        >>> branch_sizes(5, 1), branch_sizes(5, 2)
        ([5, 3, 1], [5, 3])
    """
    return [size for size in range(kernel_size, 0, -2) if size > 1 or stride == 1]


def _block(
    x, channels: int, kernel_size: int, *, name: str, stride: int = 1, split: bool = False,
    rep: bool = False, gated: bool = False, shortcut: bool = False,
):  # fmt: skip
    """A depthwise convolution, or several in parallel, and a pointwise one, or two."""
    before = x
    if rep:
        branches = []
        for i, size in enumerate(branch_sizes(kernel_size, stride)):
            ours = f"{name}_dw_{i}"
            branch = blocks.depthwise_conv(x, size, stride=stride, name=f"{ours}_conv")
            branches.append(blocks.norm_act(branch, None, name=f"{ours}_bn"))
        x = keras.layers.Add(name=f"{name}_dw_add")(branches)
        x = keras.layers.Activation("relu", name=f"{name}_dw_act")(x)
    else:
        x = blocks.depthwise_conv(x, kernel_size, stride=stride, name=f"{name}_dw_conv")
        x = blocks.norm_act(x, "relu", name=f"{name}_dw_bn")
    if gated:
        x = blocks.squeeze_excite(x, name=f"{name}_se", gate_activation="sigmoid")
    if split:
        x = blocks.conv(x, channels // 2, 1, name=f"{name}_pw_1_conv")
        x = blocks.norm_act(x, "relu", name=f"{name}_pw_1_bn")
    last = f"{name}_pw_2" if split else f"{name}_pw"
    x = blocks.conv(x, channels, 1, name=f"{last}_conv")
    x = blocks.norm_act(x, "relu", name=f"{last}_bn")
    return keras.layers.Add(name=f"{name}_add")([x, before]) if shortcut else x


def _check(scale, class_expand, dropout, stride_list) -> None:
    if scale <= 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if class_expand < 1:
        raise ValueError(f"class_expand: expected a positive number, got {class_expand}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
    if any(s not in (1, 2) for s in stride_list):
        raise ValueError(f"stride_list: expected strides of 1 or 2, got {list(stride_list)}")
