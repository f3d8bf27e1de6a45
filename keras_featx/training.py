"""Training: `train(config)`, read from top to bottom."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx import callbacks, checkpoints, components, distribute, models, weights
from keras_featx.config import dump_config
from keras_featx.data import lists, pipeline
from keras_featx.data.samplers import Order
from keras_featx.errors import ConfigError
from keras_featx.evaluation import embed, evaluate_samples, load_eval_samples
from keras_featx.optimizers import build_optimizer
from keras_featx.sections import Config

log = logging.getLogger(__name__)


def train(config: Config) -> dict[str, Any]:
    """Train an extractor by classification; evaluate, save and log along the way.

    Everything is written into ``Global.output_dir``: ``config.yaml`` (resolved), ``train.log``,
    ``metrics.csv``, ``latest/`` (to resume from), ``best_model/`` (by the first metric; the last
    weights where nothing is evaluated). All input is checked before anything is written.

    Args:
        config: See :func:`keras_featx.load_config`.

    Returns:
        The last row of ``metrics.csv``, with ``best`` (the best value of the first metric, or
        ``None``) and ``output_dir``.

    Raises:
        ConfigError: On a config, list or checkpoint that cannot be trained with.
        RunError: On an undecodable image or a loss that is not finite.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> config = quickstart_config("output/example", ["epochs=1", "iter_per_epoch=2"])
        >>> sorted(keras_featx.train(config))[:3]
        ['accuracy', 'best', 'epoch']
    """
    data = _load_data(config)
    config = _with_class_num(config, data.class_num)
    strategy = distribute.get_strategy(config.Global.strategy)
    distribute.check_batch_size(strategy, data.order.batch_size)
    steps_per_epoch = config.Global.iter_per_epoch or data.order.steps_per_pass

    keras.utils.set_random_seed(config.Global.seed)
    if config.Global.deterministic:
        tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        extractor = models.build_extractor(config.Arch, config.Global.precision)
        head = models.build_head(config.Arch, data.class_num)
        classifier = models.build_classifier(extractor, head)
        if config.Global.pretrained_model and not config.Global.checkpoint:
            weights.load_pretrained(config.Global.pretrained_model, extractor, head, config.Arch)
            if config.Global.imprint_head:
                _imprint(head, extractor, data.samples, config)
        compile_classifier(classifier, config, steps_per_epoch)
        state = checkpoints.State()
        if config.Global.checkpoint:
            state = checkpoints.restore(
                config.Global.checkpoint, config, classifier, extractor, head
            )

    dataset = _dataset(config, data, steps_per_epoch, state.epoch)
    run = _run_folder(config)  # from here on files are written
    with _log_file(run / "train.log"):
        log.info(
            "%d images of %d identities, %d steps of %d images an epoch on %d replica(s); "
            "%d weights in the extractor, %d in the head; epochs done: %d of %d",
            len(data.samples),
            data.class_num,
            steps_per_epoch,
            data.order.batch_size,
            strategy.num_replicas_in_sync,
            extractor.count_params(),
            head.count_params(),
            state.epoch,
            config.Global.epochs,
        )

        def finish_epoch(epoch: int, logs: dict) -> None:
            scores = {}
            due = epoch == config.Global.epochs or epoch % config.Global.eval_interval == 0
            if data.query is not None and due:
                scores = evaluate_samples(config, extractor, data.query, data.gallery)
            _record_epoch(config, run, classifier, extractor, head, state, logs, scores)

        if state.epoch < config.Global.epochs:
            _fit(config, data, dataset, classifier, head, steps_per_epoch, state, finish_epoch)
    return {**state.history[-1], "best": state.best, "output_dir": config.Global.output_dir}


@dataclasses.dataclass(frozen=True)
class _Data:
    samples: lists.Samples
    class_num: int
    order: Order
    query: lists.Samples | None
    gallery: lists.Samples | None


def _load_data(config: Config) -> _Data:
    """Read and check every list before anything is built."""
    section = config.DataLoader.Train
    if section is None:
        raise ConfigError("DataLoader.Train: missing; training needs a list of images")
    samples = lists.load_samples(section.dataset.source, "DataLoader.Train.dataset")
    if section.dataset.turned_identities:
        if config.Arch.image_size[0] != config.Arch.image_size[1]:
            raise ConfigError(
                "DataLoader.Train.dataset.turned_identities: expected a square Arch.image_size, "
                f"got {list(config.Arch.image_size)}"
            )
        samples = lists.turned_identities(samples)
    stated = config.Arch.Head.args.get("class_num")
    class_num = lists.check_labels(samples, stated, "Arch.Head.class_num")
    query = gallery = None
    if config.Global.eval_during_train and config.DataLoader.Eval is not None:
        query, gallery = load_eval_samples(config)
    sampler = components.builder("sampler", section.sampler.name)
    order = sampler(samples, config.Global.seed, **section.sampler.args)
    return _Data(samples, class_num, order, query, gallery)


def _imprint(head: keras.Layer, extractor: keras.Model, samples: lists.Samples, config) -> None:
    """Set each class centre to the mean embedding of its training images, unaugmented."""
    if config.Arch.Head.name == "Linear" or samples.turns is not None:
        raise ConfigError(
            "Global.imprint_head: expected with a head of cosines and without turned_identities"
        )
    embeddings = embed(extractor, samples.paths, config.Arch.Preprocess)
    sums = np.zeros((head.class_num, embeddings.shape[1]))
    np.add.at(sums, samples.labels, embeddings)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    fresh = np.asarray(head.centres).T  # kept where a label has no image
    head.centres.assign(np.where(norms > 0, sums / np.maximum(norms, 1e-12), fresh).T)


def compile_classifier(classifier: keras.Model, config: Config, steps_per_epoch: int) -> None:
    """`compile` with the sum of losses on the logits and accuracy on the margin-free scores."""
    losses = []
    for i, part in enumerate(config.Loss.Train):
        try:
            losses.append(components.builder("loss", part.name)(**part.args))
        except ValueError as error:
            raise ConfigError(f"Loss.Train.{i}.{error}") from None

    def total(label, logits):
        return sum(loss(label, logits) for loss in losses)

    classifier.compile(
        optimizer=build_optimizer(config.Optimizer, config.Global.epochs, steps_per_epoch),
        # A single loss keeps its own reduction, which Keras scales per replica.
        loss={"logits": losses[0] if len(losses) == 1 else total},
        metrics={"scores": keras.metrics.SparseCategoricalAccuracy(name="accuracy")},
        jit_compile=False,  # XLA's depthwise convolutions on CPU are seven times slower
    )


def _dataset(config: Config, data: _Data, steps_per_epoch: int, first_epoch: int):
    return pipeline.train_dataset(
        data.samples,
        data.order,
        config.Arch,
        config.DataLoader.Train.dataset.transform_ops,
        seed=config.Global.seed,
        first_step=first_epoch * steps_per_epoch,
        last_step=config.Global.epochs * steps_per_epoch,
    )


def _fit(config, data, dataset, classifier, head, steps_per_epoch, state, finish_epoch) -> None:
    def batch_paths(step: int) -> list[str]:
        return [data.samples.paths[row] for row in pipeline.batch_rows(data.order, step)]

    every, batch_size = config.Global.print_batch_step, data.order.batch_size
    steps = [
        callbacks.StopOnNaN(batch_paths, steps_per_epoch),
        callbacks.Progress(steps_per_epoch, every, batch_size),
        callbacks.EpochEnd(finish_epoch),
    ]
    warmup = config.Optimizer.margin_warmup_epoch
    if warmup is not None:
        start, end = (epoch * steps_per_epoch for epoch in warmup)
        steps.append(callbacks.MarginWarmup(head, start, end, steps_per_epoch))
    try:
        classifier.fit(
            dataset,
            initial_epoch=state.epoch,
            epochs=config.Global.epochs,
            steps_per_epoch=steps_per_epoch,
            callbacks=steps,
            verbose=0,
            shuffle=False,  # the pipeline has its own order
        )
    except tf.errors.OpError as error:
        raise pipeline.explain(error, data.samples.paths, data.samples.source) from error


def _record_epoch(config, run, classifier, extractor, head, state, logs, scores) -> None:
    """One epoch into the history, the log, `best_model`, `latest` and `metrics.csv`."""
    state.epoch += 1
    row = {
        "epoch": state.epoch,
        "step": int(np.asarray(classifier.optimizer.iterations)),
        "lr": float(np.asarray(classifier.optimizer.learning_rate)),  # of the step to come
        "loss": logs["loss"],
        "accuracy": logs["scores_accuracy"],
        "images_per_second": logs["images_per_second"],
        **scores,
    }
    state.history.append(row)
    log.info("%s", ", ".join(f"{k} {v:.4g}" if v % 1 else f"{k} {v:.0f}" for k, v in row.items()))
    score = next(iter(scores.values()), None)  # the first value of the first metric
    if state.best is None or (score is not None and score > state.best):
        state.best = score
        weights.save_weights(run / "best_model", dump_config(config), extractor, head, row)
    last = state.epoch == config.Global.epochs
    if last or state.epoch % config.Global.save_interval == 0:
        checkpoints.save(run / "latest", config, classifier, extractor, head, state)
    callbacks.write_csv(run / "metrics.csv", state.history)


def _with_class_num(config: Config, class_num: int) -> Config:
    """The config with the number of classes filled in, as the run folder keeps it."""
    head = dataclasses.replace(
        config.Arch.Head, args={**config.Arch.Head.args, "class_num": class_num}
    )
    return dataclasses.replace(config, Arch=dataclasses.replace(config.Arch, Head=head))


def _run_folder(config: Config) -> Path:
    """Make the run folder and write the resolved config into it."""
    run = Path(config.Global.output_dir)
    if (run / "metrics.csv").exists() and not config.Global.checkpoint:
        log.warning("%s holds an earlier run; its files are being replaced", run)
    try:
        run.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(run / "config.yaml", dump_config(config).encode())
    except OSError as error:
        raise ConfigError(
            f"Global.output_dir: expected a folder that can be written, got {str(run)!r}: "
            f"{error.strerror}"
        ) from None
    return run


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Copy the package's log into a file while the block runs."""
    logger = logging.getLogger("keras_featx")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(before, logging.INFO) or logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
