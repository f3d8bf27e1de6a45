"""An extractor that looks at an image several times: whole, mirrored and cut, and averages."""

import keras
import numpy as np

from keras_featx.data.samples import Samples
from keras_featx.errors import RunError
from keras_featx.evaluation_sections import ViewsSection
from keras_featx.models import EMBEDDING, IMAGE

# The name of such a model, by which it is known again, also after saving and loading.
VIEWS = "views"


def with_views(
    extractor: keras.Model, *, flip: bool = False, crops: int = 0, crop: float = 0.875
) -> keras.Model:
    """Average an extractor over views of each image (ten-crop testing, arXiv:1409.1556).

    The whole image is always one of them. All views of a batch go through the network as one batch,
    so memory is that of ``(1 + crops) * (1 + flip)`` as many images.

    Args:
        extractor: Images ``(batch, height, width, 3)``, values 0..255, to vectors of unit norm.
        flip: Every view also mirrored, left to right.
        crops: 0, 1 (the centre) or 5 (the corners too); each is resized to the network's size,
            bilinear.
        crop: Side of a crop, relative to the image's, in (0, 1].

    Returns:
        A functional model with the extractor's input and output: the mean of the views' embeddings,
        made unit. Where they cancel it gives a vector of norm 0, which
        :func:`keras_featx.embed` refuses.

    Raises:
        ConfigError: On arguments outside their range, or if there is nothing to average.

    Example:
        >>> import keras_featx
        >>> from keras_featx.views import with_views
        >>> model = with_views(keras_featx.build_model("emoji-lcnet-x0_5"), flip=True, crops=5)
        >>> model.output_shape
        (None, 256)
    """
    section = ViewsSection(flip=flip, crops=crops, crop=crop)
    section.check(VIEWS)
    size = extractor.input_shape[1:3]
    # Its devices are the extractor's.
    with extractor.distribute_strategy.scope():
        image = keras.Input((*size, 3), dtype="float32", name=IMAGE)
        parts = [image, *(_cut_out(image, size, place, crop) for place in _PLACES[crops])]
        # View after view: what belongs to one image lies a batch apart.
        views = keras.ops.concatenate(parts, axis=0) if crops else image
        if flip:
            views = keras.ops.concatenate([views, keras.ops.flip(views, axis=2)], axis=0)
        embeddings = extractor(views)
        shape = (section.count, -1, extractor.output_shape[-1])
        mean = keras.ops.mean(keras.ops.reshape(embeddings, shape), axis=0)
        embedding = keras.layers.UnitNormalization(dtype="float32", name=EMBEDDING)(mean)
        return keras.Model(image, embedding, name=VIEWS)


def as_configured(extractor: keras.Model, views: ViewsSection | None) -> tuple[keras.Model, int]:
    """What to embed with under ``Metric.Views``, and how many views it makes of an image."""
    if views is None:
        return extractor, 1
    return with_views(extractor, **vars(views)), views.count


def check_views(
    model: keras.Model, embeddings: np.ndarray, samples: Samples, rows: np.ndarray
) -> None:
    """Refuse images whose views cancel, where the model averages views.

    Args:
        model: Any extractor.
        embeddings: Of some images ``(batch, size)``.
        samples: What they were taken from.
        rows: Where they stand in it ``(batch,)``.

    Raises:
        RunError: With the first such image.
    """
    if model.name != VIEWS:
        return
    norms = np.linalg.norm(embeddings, axis=1)
    if norms.min() < 0.999:
        i = int(np.flatnonzero(norms < 0.999)[0])
        raise RunError(
            f"{samples.title(int(rows[i]))}: expected views whose embeddings do not cancel, got a "
            f"mean of norm {norms[i]:.2g} after normalisation; the weights may be untrained or "
            "broken"
        )


# (top, left) of crops, 0 to 1 of the room there is.
_CENTRE = (0.5, 0.5)
_PLACES = {
    0: (),
    1: (_CENTRE,),
    5: ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), _CENTRE),
}


def _cut_out(image, size: tuple[int, int], place: tuple[float, float], crop: float):
    """A crop, at the size of the image."""
    cropping = []
    for side, at in zip(size, place, strict=True):
        room = side - max(1, round(crop * side))
        before = int(at * room)
        cropping.append((before, room - before))
    part = keras.layers.Cropping2D(cropping, dtype="float32")(image)
    # The layer Resizing puts every layer after it into training, where a call says nothing.
    return keras.ops.image.resize(part, size, interpolation="bilinear")
