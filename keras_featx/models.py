"""From a config to networks: the extractor (what is deployed) and the classifier (what trains)."""

import contextlib
import functools
import os
import zipfile
from collections.abc import Iterator

import keras

import keras_featx.backbones.normalization
import keras_featx.heads
import keras_featx.interop.tfsim  # noqa: F401 (these register layers that saved models hold)
from keras_featx import components, weights
from keras_featx.config import load_config
from keras_featx.errors import ConfigError
from keras_featx.heads.adaptive import RunningHead
from keras_featx.losses.cross_entropy import CELoss
from keras_featx.losses.layers import EmbeddingLoss, snake_case
from keras_featx.sections import (
    ArchSection,
    Component,
    Config,
    LossSection,
    MatryoshkaSection,
    PreprocessSection,
)

IMAGE = "image"
EMBEDDING = "embedding"
CORRECT = "correct"


def build_model(config: Config | str | os.PathLike) -> keras.Model:
    """Build the extractor: image in, unit vector out.

    Args:
        config: A config, the path of a YAML file, or the name of weights shipped with the
            package. Weights are loaded where ``Global.pretrained_model`` names some.

    Returns:
        A functional model from ``(batch, height, width, 3)``, values 0..255, uint8 or float, to
        ``(batch, embedding_size)``, float32, unit L2 norm. Pixel normalisation is inside.

    Raises:
        ConfigError: With the key of the part that cannot be built, or a weight that does not fit.

    Example:
        >>> import keras_featx
        >>> model = keras_featx.build_model("emoji-lcnet-x0_5")
        >>> model.output_shape
        (None, 256)
    """
    if isinstance(config, str) and config in weights.shipped():
        config = weights.shipped_config(config)
    elif isinstance(config, str | os.PathLike):
        config = load_config(config)
    model = build_extractor(config.Arch, config.Global.precision)
    if config.Global.pretrained_model:
        weights.load_pretrained(config.Global.pretrained_model, model, arch=config.Arch)
    return model


def build_extractor(arch: ArchSection, policy: str = "float32") -> keras.Model:
    """Build the extractor of an ``Arch`` section with fresh weights."""
    with _dtype_policy(policy):
        image = keras.Input((*arch.image_size, 3), dtype="float32", name=IMAGE)
        x = _normalise_pixels(image, arch.Preprocess)
        x = _apply("backbone", arch.Backbone, "Arch.Backbone", x)
        if arch.Neck is not None:
            x = _apply("neck", arch.Neck, "Arch.Neck", x)
        embedding = keras.layers.UnitNormalization(dtype="float32", name=EMBEDDING)(x)
    return keras.Model(image, embedding, name="extractor")


def build_head(arch: ArchSection, class_num: int | None = None) -> keras.Layer:
    """Build the head of an ``Arch`` section.

    Args:
        arch: The section; its ``Head.class_num``, where given, must agree with ``class_num``.
        class_num: Number of classes of the training list.
    """
    stated = arch.Head.args.get("class_num")
    if class_num is not None and stated is not None and stated != class_num:
        raise ConfigError(
            f"Arch.Head.class_num: expected {class_num}, the classes of the training list, "
            f"got {stated}"
        )
    if class_num is None and stated is None:
        raise ConfigError("Arch.Head.class_num: missing")
    arguments = {
        **arch.Head.args,
        "class_num": class_num if stated is None else stated,
        "name": "head",
    }
    with named("Arch.Head"):
        return components.builder("head", arch.Head.name)(**arguments)


def build_losses(
    section: LossSection, class_num: int | None = None
) -> dict[str, CELoss | EmbeddingLoss]:
    """The losses of a ``Loss`` section by name; of two of a kind the second's ends in ``_2``.

    Args:
        section: Its losses with own proxies get ``class_num`` where they state none.
        class_num: Number of classes of the training list.
    """
    losses = {}
    for i, part in enumerate(section.Train):
        path = f"Loss.Train.{i}"
        arguments = dict(part.args)
        if "class_num" in components.parameters("loss", part.name, path):
            arguments.setdefault("class_num", class_num)
        name = snake_case(part.name)
        alike = sum(other.name == part.name for other in section.Train[:i])
        name = f"{name}_{alike + 1}" if alike else name
        with named(path):
            losses[name] = components.builder("loss", part.name)(**arguments, name=name)
    return losses


def build_classifier(
    extractor: keras.Model,
    head: keras.Layer | None,
    losses: dict[str, CELoss | EmbeddingLoss] | None = None,
    mixed: bool = False,
    matryoshka: MatryoshkaSection | None = None,
) -> keras.Model:
    """Attach a head and losses to an extractor; :func:`compile_classifier` makes it train.

    Args:
        extractor: From :func:`build_model`.
        head: The head of the cross-entropy; ``None`` if there is none among the losses.
        losses: By name; cross-entropy alone where not given.
        mixed: Images are mixtures of two (Mixup, CutMix): the inputs ``"label_2"`` and ``"share"``,
            ``(batch,)`` each, are the label of the other and the share of the own in [0, 1], and
            cross-entropy is the mean of both labels' with these weights.
        matryoshka: Each loss is the weighted sum of those of the embedding's first numbers.

    Returns:
        A functional model from ``{"image": ..., "label": (batch,)}`` to each loss of each row under
        its name, ``(batch,)``, and, with a head, ``"correct"``: whether the own class scores
        highest without margin. No ``(batch, classes)`` tensor is made.

    Example:
        >>> import keras, keras_featx
        >>> from keras_featx.heads import ArcMargin
        >>> extractor = keras_featx.build_model("emoji-lcnet-x0_5")
        >>> classifier = keras_featx.build_classifier(extractor, ArcMargin(class_num=7))
        >>> sorted(classifier.output)
        ['ce_loss', 'correct']
        >>> keras_featx.compile_classifier(classifier, keras.optimizers.Adam())
    """
    losses = {"ce_loss": CELoss()} if losses is None else losses
    label = keras.Input((), dtype="int32", name="label")
    # Some losses and heads look at the embedding's length; the others normalise it themselves.
    embedding = extractor.get_layer(EMBEDDING).input
    inputs = {IMAGE: extractor.input, "label": label}
    if mixed:
        inputs |= {"label_2": keras.Input((), dtype="int32", name="label_2")}
        inputs |= {"share": keras.Input((), dtype="float32", name="share")}
    # The whole first: it says how large centres are, and what is correct.
    parts = [(embedding, 1.0)]
    if matryoshka is not None:
        parts = _prefixes(embedding, matryoshka, head)
    outputs, crosses = {}, [loss for loss in losses.values() if isinstance(loss, CELoss)]
    if len(crosses) > 1 and head.sample_rate < 1:
        raise ConfigError("Arch.Head.sample_rate: expected 1 with two CELoss, each would sample")
    if mixed and head is not None and head.sample_rate < 1:
        raise ConfigError(
            "Arch.Head.sample_rate: expected 1 with batch_transform_ops, as each label would have "
            f"a sample of its own, got {head.sample_rate}"
        )
    for name, loss in losses.items():
        if isinstance(loss, CELoss):
            with named("Arch.Head"):
                found = [_cross_entropy(head, part, inputs, loss.epsilon) for part, _ in parts]
            values = [value for value, _ in found]
            outputs[name] = loss.weight * _weighted(values, parts)
            outputs[CORRECT] = keras.ops.cast(found[0][1], "float32")
        elif mixed:
            raise ConfigError(
                "DataLoader.Train.dataset.batch_transform_ops: expected with CELoss alone, as a "
                f"mixture has two identities, got it with {name}"
            )
        else:
            values = [loss(embedding, label)]  # which builds it
            if loss.weights and len(parts) > 1:
                raise ConfigError(
                    f"Arch.Matryoshka: expected losses without weights and memory, got {name}"
                )
            values += [loss(part, label) for part, _ in parts[1:]]
            outputs[name] = _weighted(values, parts)
    return keras.Model(inputs, outputs, name="classifier")


def _cross_entropy(head: keras.layers.Layer, embedding, inputs: dict, epsilon: float):
    """The loss of each row, of both labels of a mixture, and what is correct."""
    value, correct = head(embedding, inputs["label"], with_loss=True, epsilon=epsilon)
    if "share" in inputs:
        second, _ = head(embedding, inputs["label_2"], with_loss=True, epsilon=epsilon)
        value = inputs["share"] * value + (1 - inputs["share"]) * second
    return value, correct


def _weighted(values: list, parts: list):
    """Losses of parts of the embedding, summed; the loss itself where that is all there is."""
    values = [
        value if weight == 1 else weight * value
        for value, (_, weight) in zip(values, parts, strict=True)
    ]
    return functools.reduce(keras.ops.add, values)


def _prefixes(embedding, section: MatryoshkaSection, head) -> list:
    """Parts of the embedding with their weights, the whole first.

    A head that counts steps or keeps statistics would take each part for one more step.
    """
    whole, *shorter = section.parts[::-1]
    if whole[0] != embedding.shape[-1]:
        raise ConfigError(
            f"Arch.Matryoshka.sizes: expected the last to be {embedding.shape[-1]}, the size of "
            f"the embedding, got {whole[0]}"
        )
    if isinstance(head, RunningHead) or (head is not None and head.sample_rate < 1):
        raise ConfigError(
            "Arch.Matryoshka: expected a head that keeps no statistics and samples no classes, got "
            f"{type(head).__name__}"
        )
    return [(embedding, whole[1]), *((embedding[:, :size], weight) for size, weight in shorter)]


def compile_classifier(
    classifier: keras.Model, optimizer: keras.optimizers.Optimizer | str
) -> None:
    """`compile` a classifier: its outputs are its losses, summed; ``correct`` is its accuracy.

    ``fit`` then wants ``(inputs, targets)`` with a target for every output, whose value is not
    looked at.
    """
    losses = [name for name in classifier.output if name != CORRECT]
    metrics = {}
    if CORRECT in classifier.output:
        metrics[CORRECT] = keras.metrics.MeanMetricWrapper(_output, name="accuracy")
    classifier.compile(
        optimizer=optimizer,
        loss=dict.fromkeys(losses, _output),
        metrics=metrics,
        jit_compile=False,  # XLA's depthwise convolutions on CPU are seven times slower
    )


def loss_layers(classifier: keras.Model) -> list[EmbeddingLoss]:
    """The losses of a classifier that may own weights."""
    return [layer for layer in classifier.layers if isinstance(layer, EmbeddingLoss)]


def _output(target, output):
    return output


def load_model(path: str | os.PathLike) -> keras.Model:
    """Load a ``.keras`` file of an extractor or classifier, saved by ``model.save``.

    The same as :func:`keras.saving.load_model` with this package's layers registered. Code is
    never loaded from the file.

    Raises:
        ConfigError: If there is no such file, or it is no Keras model.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: expected a file written by model.save")
    try:
        return keras.saving.load_model(path, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: expected a Keras model: {reason}") from error


def _normalise_pixels(image, preprocess: PreprocessSection):
    """Map 0..255 to (pixel / 255 - mean) / std, in float32 under any policy."""
    return keras.layers.Rescaling(
        scale=[1 / (255 * s) for s in preprocess.std],
        offset=[-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)],
        dtype="float32",
        name="normalise_pixels",
    )(image)


def _apply(kind: str, part: Component, path: str, x):
    with named(path):
        return components.builder(kind, part.name, path)(x, **part.args)


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Give a builder's refusal the config key of the part."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}.{str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _dtype_policy(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
