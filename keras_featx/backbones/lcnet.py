"""PP-LCNet: a lightweight CPU convolutional neural network (arXiv:2109.15099)."""

import keras

from keras_featx.backbones import blocks
from keras_featx.backbones.normalization import ACTIVATIONS

# Channels are those of scale 1; sizes those of a 224-pixel input with the usual strides.
# stage      kernel, out, squeeze-excite                    size
STAGES = {
    "blocks2": [(3, 32, False)],  #                           112
    "blocks3": [(3, 64, False), (3, 64, False)],  #            56
    "blocks4": [(3, 128, False), (3, 128, False)],  #          28
    "blocks5": [(3, 256, False)] + [(5, 256, False)] * 5,  #   14
    "blocks6": [(5, 512, True), (5, 512, True)],  #             7
}
STEM_CHANNELS = 16


def lcnet(
    inputs,
    *,
    scale: float = 1.0,
    class_expand: int = 1280,
    dropout: float = 0.2,
    dropout_scales_inference: bool = False,
    stride_list: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2),
    use_last_conv: bool = True,
    activation: str = "hardswish",
    grid: int = 1,
    levels: tuple[str, ...] = (),
):
    """PP-LCNet from a normalised image to a feature vector.

    Args:
        inputs: Keras tensor ``(batch, height, width, 3)``.
        scale: Width multiplier; published are 0.25, 0.35, 0.5, 0.75, 1, 1.5, 2 and 2.5. Channel
            counts are rounded to multiples of 8.
        class_expand: Size of the feature (of the last convolution); does not scale.
        dropout: Rate of dropout on the feature, in [0, 1).
        dropout_scales_inference: The reference's dropout does not rescale in training and
            multiplies the feature by ``1 - dropout`` at inference. True does the same.
        stride_list: Strides of the stem and of the first block of stages 3 to 6. A stride of 1 in
            the stem suits small images.
        use_last_conv: False leaves out the last convolution, its activation and the dropout.
        activation: ``hardswish``, ``relu`` or ``relu6``.
        grid: Cells along each side that the last feature map is averaged over; their features
            stand one behind the other. 1 averages over the whole map, as the reference does, and
            forgets where in the image something was. Where images are aligned (drawings, logos,
            faces) a grid keeps it, as the parts of arXiv:1711.09349 do.

        levels: Stages, of ``blocks2`` to ``blocks6``, whose own averages stand behind the feature,
            batch-normalised (as in hypercolumns, arXiv:1411.5752). Early stages know colours and
            textures.

    Returns:
        Keras tensor ``(batch, grid * grid * class_expand)``, or so many times the width of the last
        stage without the last convolution; and wider by the widths of the levels.

    Raises:
        ValueError: On an impossible argument.

    Example:
        >>> import keras
        >>> from keras_featx.backbones.lcnet import lcnet
        >>> image = keras.Input((224, 224, 3))
        >>> keras.Model(image, lcnet(image, scale=2.5)).count_params()
        7763920
    """
    _check(scale, class_expand, dropout, stride_list, grid, levels)
    stem, *stage_strides = stride_list
    strides = dict(zip(STAGES, [1, *stage_strides], strict=True))

    x = blocks.conv(inputs, blocks.width(STEM_CHANNELS, scale), 3, stride=stem, name="conv1_conv")
    x = blocks.norm_act(x, activation, name="conv1_bn")
    averages = []
    for stage, rows in STAGES.items():
        for i, (kernel_size, channels, gated) in enumerate(rows):
            stride = strides[stage] if i == 0 else 1
            name = f"{stage}_{i}"
            x = blocks.depthwise_conv(x, kernel_size, stride=stride, name=f"{name}_dw_conv")
            x = blocks.norm_act(x, activation, name=f"{name}_dw_bn")
            if gated:
                x = blocks.squeeze_excite(x, name=f"{name}_se")
            x = blocks.conv(x, blocks.width(channels, scale), 1, name=f"{name}_pw_conv")
            x = blocks.norm_act(x, activation, name=f"{name}_pw_bn")
        if stage in levels:
            level = keras.layers.GlobalAveragePooling2D(name=f"{stage}_pool")(x)
            averages.append(blocks.norm_act(level, None, name=f"{stage}_pool_bn"))
    x = _pool(x, grid, use_last_conv)
    if use_last_conv:
        x = blocks.conv(x, class_expand, 1, name="last_conv")
        x = keras.layers.Activation(ACTIVATIONS[activation], name="last_act")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        x = keras.layers.Dropout(dropout, name="dropout")(x)
        if dropout_scales_inference:
            # Keras divides by (1 - rate) in training; multiplying always gives the reference.
            x = keras.layers.Rescaling(1 - dropout, name="dropout_scale")(x)
    return keras.layers.Concatenate(name="levels")([x, *averages]) if averages else x


def _pool(x, grid: int, keepdims: bool):
    """Average over each cell of a grid."""
    if grid == 1:
        return keras.layers.GlobalAveragePooling2D(keepdims=keepdims, name="pool")(x)
    height, width = x.shape[1:3]
    if height % grid or width % grid:
        raise ValueError(
            f"grid: expected a number that divides the sides of the last feature map, {height} and "
            f"{width}, got {grid}"
        )
    x = keras.layers.AveragePooling2D((height // grid, width // grid), name="pool")(x)
    return x if keepdims else keras.layers.Flatten(name="flatten")(x)


def _check(scale, class_expand, dropout, stride_list, grid, levels) -> None:
    if scale <= 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if class_expand < 1:
        raise ValueError(f"class_expand: expected a positive number, got {class_expand}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
    if any(s not in (1, 2) for s in stride_list):
        raise ValueError(f"stride_list: expected strides of 1 or 2, got {list(stride_list)}")
    if grid < 1:
        raise ValueError(f"grid: expected a positive number, got {grid}")
    if not set(levels) <= set(STAGES) or len(set(levels)) < len(levels):
        raise ValueError(f"levels: expected some of {list(STAGES)}, got {list(levels)}")
