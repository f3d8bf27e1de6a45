"""The embeddings that a config is evaluated by, to be measured in other forms."""

import numpy as np

from keras_featx.data.samples import load_samples
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError
from keras_featx.evaluation import measure_sets, ranked, trained_model
from keras_featx.evaluation_data import load_eval_sets
from keras_featx.exporters.source import MOST_FITTED, spread
from keras_featx.labelled import Labelled
from keras_featx.sections import Config
from keras_featx.views import as_configured


def vectors_of(
    config: Config, fit: str | None = None
) -> tuple[Labelled, Labelled, np.ndarray | None, str]:
    """Query and gallery of the only pair, embedded, and what PCA is fitted to.

    Args:
        config: Names lists and weights. ``Metric.Ranking`` must be empty: it would change what is
            stored.
        fit: ``train``: images from all over the training list, at most 20,000; ``gallery``;
            ``none``. By default the first where there is a training list, else the second.

    Returns:
        Query, gallery, embeddings ``(items, size)`` or ``None``, and what they are of.

    Raises:
        ConfigError: On bad lists, and where a config has what does not belong here.
    """
    if config.Metric.Ranking:
        raise ConfigError("Metric.Ranking: expected [], as `compress` ranks in its own ways")
    if config.Global.feature_binarize:
        raise ConfigError(
            "Global.feature_binarize: expected null, as bits are one of the precisions, got "
            f"{config.Global.feature_binarize}"
        )
    if config.DataLoader.Eval is not None:
        config.DataLoader.Eval.only_pair()
    section = config.DataLoader.Train
    fit = fit or ("gallery" if section is None else "train")
    if fit == "train" and section is None:
        raise ConfigError("DataLoader.Train: missing; --fit train learns from training images")
    train = None
    if fit == "train":
        train = spread(
            load_samples(section.dataset.source, "DataLoader.Train.dataset"), MOST_FITTED
        )
    sets = load_eval_sets(config)
    model = trained_model(config)
    (found,) = measure_sets(config, model, sets).values()
    vectors = found.query_embeddings, found.gallery_embeddings
    query, gallery, *_ = ranked(config.Metric, found.query, found.gallery, *vectors)
    if train is not None:
        embedder, views = as_configured(model, config.Metric.Views)
        size = max(1, 64 // views)
        return query, gallery, embed(embedder, train, config.Arch.Preprocess, size), fit
    return query, gallery, None if fit == "none" else gallery.embeddings, fit
