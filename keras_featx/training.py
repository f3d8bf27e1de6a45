"""Training: `train(config)`, read from top to bottom."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx import callbacks, checkpoints, components, distilling, distribute, models, weights
from keras_featx.averaging import averaged
from keras_featx.config import dump_config
from keras_featx.data import faults, outputs, pipeline
from keras_featx.data.samples import Samples
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError
from keras_featx.evaluation import figure_to_monitor, figures, measure_sets
from keras_featx.heads.layers import DynamicArcMargin, MarginHead
from keras_featx.losses.cross_entropy import CELoss
from keras_featx.optimizers import build_optimizer, freeze, named_weights
from keras_featx.progress import log_file
from keras_featx.report.run_page import report_run
from keras_featx.sections import Config
from keras_featx.training_data import TrainingData, load_training_data

log = logging.getLogger(__name__)


def train(
    config: Config, data: Any = None, query: Any = None, gallery: Any = None
) -> dict[str, Any]:
    """Train an extractor by classification; evaluate, save and log along the way.

    Everything is written into ``Global.output_dir``: ``config.yaml`` (resolved), ``train.log``,
    ``metrics.csv``, ``latest/`` (to resume from), ``best_model/`` (by ``Metric.monitor``; the last
    weights where nothing is evaluated), ``report.html`` (where something is). All input is checked
    before anything is written.

    Args:
        config: See :func:`keras_featx.load_config`.
        data: Training images given in Python, in place of the config's: ``(images, labels)``, a
            ``tf.data.Dataset`` of them, or samples; see :mod:`keras_featx.data.memory`.
        query: Likewise, of evaluation.
        gallery: Likewise.

    Returns:
        The last row of ``metrics.csv``, with ``best`` (the best value of ``Metric.monitor``, or
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
    data = load_training_data(config, data, query, gallery)
    config = _with_class_num(config, data.class_num)
    strategy = distribute.get_strategy(config.Global.strategy)
    distribute.check_batch_size(strategy, data.order.batch_size)
    steps_per_epoch = config.Global.iter_per_epoch or data.order.steps_per_pass
    monitor = (
        figure_to_monitor(config.Metric, data.sets, config.Metric.monitor) if data.sets else ""
    )

    keras.utils.set_random_seed(config.Global.seed)
    if config.Global.deterministic:
        tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        net = _build(config, data, steps_per_epoch)
        state = checkpoints.State()
        if config.Global.checkpoint:
            state = checkpoints.restore(config.Global.checkpoint, config, net, data.samples.names)
    if monitor:
        if state.monitor not in ("", monitor):
            raise ConfigError(
                f"Metric.monitor: expected {state.monitor!r}, by which the run of "
                f"{config.Global.checkpoint} has chosen its best_model, got {monitor!r}"
            )
        state.monitor = monitor
    state.teacher = distilling.same_teacher(data.teacher, state.teacher, config)

    run = _run_folder(config)  # from here on files are written
    skipped = _skipped(config, data.samples, run)
    with log_file(run / "train.log"):
        log.info(
            "%d images of %d identities, %d steps of %d images an epoch on %d replica(s); "
            "%d weights in the extractor, %d in the head; epochs done: %d of %d",
            len(data.samples),
            data.class_num,
            steps_per_epoch,
            data.order.batch_size,
            strategy.num_replicas_in_sync,
            net.extractor.count_params(),
            net.head.count_params() if net.head is not None else 0,
            state.epoch,
            config.Global.epochs,
        )

        def finish_epoch(epoch: int, logs: dict) -> None:
            scores, sets = {}, {}
            due = epoch == config.Global.epochs or epoch % config.Global.eval_interval == 0
            if data.sets and due:
                with averaged(net.classifier.optimizer):
                    sets = measure_sets(config, net.extractor, data.sets)
                scores = figures({name: found.result for name, found in sets.items()})
            row = {"epoch": epoch, "step": epoch * steps_per_epoch}
            if skipped is not None:
                row["skipped"] = len(skipped)
            names = data.samples.names
            _record_epoch(config, run, net, state, row, logs, scores, names)
            if sets and config.Global.report and epoch == config.Global.epochs:
                report_run(
                    run, config, sets, state.history, data.samples, net.extractor.count_params()
                )

        if state.epoch < config.Global.epochs:
            _fit(config, data, net, steps_per_epoch, state.epoch, finish_epoch, skipped)
    return {**state.history[-1], "best": state.best, "output_dir": config.Global.output_dir}


def _build(config: Config, data: TrainingData, steps_per_epoch: int) -> checkpoints.Net:
    """The networks, with pretrained weights where the config names some, compiled."""
    extractor = models.build_extractor(config.Arch, config.Global.precision)
    losses = models.build_losses(config.Loss, data.class_num)
    head = _build_head(config, losses, data.class_num)
    mixed = bool(config.DataLoader.Train.dataset.batch_transform_ops)
    classifier = models.build_classifier(extractor, head, losses, mixed, config.Arch.Matryoshka)
    if data.teacher is not None:
        size = data.teacher.embedding_size
        classifier = distilling.attach(classifier, extractor, config, size)
    if data.order.refresh and (head is None or head.sub_centres > 1):
        raise ConfigError(
            "DataLoader.Train.sampler: expected with a head of one centre a class, whose centres "
            f"tell which classes are close, got {config.DataLoader.Train.sampler.name}"
        )
    if head is not None:
        try:
            head.check_batch(_classes_per_batch(config, data))
        except ValueError as error:
            raise ConfigError(f"Arch.Head.{error}") from None
    if isinstance(head, DynamicArcMargin):
        head.set_counts(np.bincount(data.samples.labels, minlength=data.class_num))
    if config.Global.pretrained_model and not config.Global.checkpoint:
        _load_pretrained(config, data.samples, extractor, head)
    layers = models.loss_layers(classifier)
    freeze(config.Optimizer.parts, extractor, head, layers)
    optimizer = build_optimizer(
        config.Optimizer,
        config.Global.epochs,
        steps_per_epoch,
        update_freq=config.Global.update_freq,
        precision=config.Global.precision,
        ema=config.EMA,
        named=named_weights(extractor, head, layers),
    )
    models.compile_classifier(classifier, optimizer)
    return checkpoints.Net(classifier, extractor, head)


def _classes_per_batch(config: Config, data: TrainingData) -> int:
    """The most identities that a batch may have."""
    sampler = config.DataLoader.Train.sampler
    known = components.parameters("sampler", sampler.name, "DataLoader.Train.sampler")
    default = known["sample_per_id"].default if "sample_per_id" in known else 1
    return data.order.batch_size // sampler.args.get("sample_per_id", default)


def _build_head(config: Config, losses: dict, class_num: int) -> keras.Layer | None:
    """The head, where one of the losses is taken on its logits."""
    if not any(isinstance(loss, CELoss) for loss in losses.values()):
        log.info("no CELoss among the losses: training without a head")
        return None
    head = models.build_head(config.Arch, class_num)
    if head.sample_rate < 1 and config.Global.update_freq > 1:
        raise ConfigError(
            "Global.update_freq: expected 1 with Arch.Head.sample_rate below 1, as each batch has "
            f"a sample of its own, got {config.Global.update_freq}"
        )
    if config.Optimizer.margin_warmup_epoch is not None and not isinstance(head, MarginHead):
        raise ConfigError(
            "Optimizer.margin_warmup_epoch: expected with a head whose margin can grow, "
            f"got it with {config.Arch.Head.name}"
        )
    return head


def _load_pretrained(config: Config, samples: Samples, extractor, head) -> None:
    """Pretrained weights; class centres by name, and imprinted where none is found."""
    found = weights.load_pretrained(
        config.Global.pretrained_model, extractor, head, config.Arch, samples.names
    )
    if head is None or not config.Global.imprint_head:
        return
    if config.Arch.Head.name == "Linear" or samples.turns is not None or head.sub_centres > 1:
        raise ConfigError(
            "Global.imprint_head: expected with a head of cosines to one centre a class, and "
            "without turned_identities"
        )
    if samples.names is None:
        found[:] = False  # the same label need not be the same identity
    rows = np.flatnonzero(~found[samples.labels])
    if not len(rows):
        return
    embeddings = embed(extractor, samples.take(rows), config.Arch.Preprocess)
    sums = np.zeros((head.class_num, embeddings.shape[1]))
    np.add.at(sums, samples.labels[rows], embeddings)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    before = distribute.read(head.centres)  # kept where a label has no image
    means = np.where(norms > 0, sums / np.maximum(norms, 1e-12), before)
    distribute.write(head.centres, means.astype("float32"))
    log.info("imprinted the centres of %d classes", np.count_nonzero(norms))


def _skipped(config: Config, samples: Samples, run: Path) -> faults.Skipped | None:
    """Who takes note of bad images, where they are to be skipped."""
    section, file = config.DataLoader.Train, run / "skipped.csv"
    if section.bad_images == "raise":
        return None
    if not config.Global.checkpoint:
        file.unlink(missing_ok=True)  # an earlier run's
    return faults.Skipped(samples, section.max_bad_fraction, file)


def _fit(config, data, net, steps_per_epoch, first_epoch, finish_epoch, skipped) -> None:
    def batch_paths(step: int) -> list[str]:
        return [data.samples.title(row) for row in pipeline.batch_rows(data.order, step)]

    every, batch_size = config.Global.print_batch_step, data.order.batch_size
    steps = [
        callbacks.StopOnNaN(batch_paths, steps_per_epoch),
        callbacks.Progress(config.Global.epochs, steps_per_epoch, every, batch_size),
        callbacks.EpochEnd(finish_epoch),
    ]
    warmup = config.Optimizer.margin_warmup_epoch
    if warmup is not None:
        start, end = (epoch * steps_per_epoch for epoch in warmup)
        steps.append(callbacks.MarginWarmup(net.head, start, end, steps_per_epoch))
    # A sampler that follows the class centres has a new order every epoch.
    refresh, last = data.order.refresh, config.Global.epochs
    spans = [(epoch, epoch + 1) for epoch in range(first_epoch, last)]
    further = distilling.further_inputs(data.teacher, data.samples, config)
    try:
        for first, stop in spans if refresh else [(first_epoch, last)]:
            if refresh and first:
                refresh(distribute.read(net.head.centres))
            net.classifier.fit(
                pipeline.train_dataset(
                    data.samples,
                    data.order,
                    config.Arch,
                    config.DataLoader.Train.dataset.transform_ops,
                    seed=config.Global.seed,
                    first_step=first * steps_per_epoch,
                    last_step=stop * steps_per_epoch,
                    targets=tuple(net.classifier.output),
                    batch_transform_ops=config.DataLoader.Train.dataset.batch_transform_ops,
                    skipped=skipped,
                    service=config.DataLoader.Train.service,
                    further=further,
                ),
                initial_epoch=first,
                epochs=stop,
                steps_per_epoch=steps_per_epoch,
                callbacks=steps,
                verbose=0,
                shuffle=False,  # the pipeline has its own order
            )
    except tf.errors.OpError as error:
        if skipped is not None and skipped.error is not None:
            raise skipped.error from None
        raise faults.explain(error, data.samples) from error


def _record_epoch(config, run, net, state, row, logs, scores, class_names) -> None:
    """One epoch into the history, the log, `best_model`, `latest` and `metrics.csv`."""
    state.epoch, optimizer = row["epoch"], net.classifier.optimizer
    row = {
        **row,
        "lr": float(np.asarray(optimizer.learning_rate)),  # of the step to come
        **callbacks.losses_and_accuracy(logs),
        "images_per_second": logs["images_per_second"],
        **scores,
    }
    state.history.append(row)
    log.info("%s", ", ".join(f"{k} {v:.4g}" if v % 1 else f"{k} {v:.0f}" for k, v in row.items()))
    score = scores.get(state.monitor)
    if state.best is None or (score is not None and score > state.best):
        state.best = score
        with averaged(optimizer):
            weights.save_weights(
                run / "best_model", dump_config(config), net.extractor, net.head, row, class_names
            )
    last = state.epoch == config.Global.epochs
    if last or state.epoch % config.Global.save_interval == 0:
        checkpoints.save(run / "latest", config, net, state, class_names)
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
        outputs.write_bytes(run / "config.yaml", dump_config(config).encode())
    except OSError as error:
        raise ConfigError(
            f"Global.output_dir: expected a folder that can be written, got {str(run)!r}: "
            f"{error.strerror}"
        ) from None
    return run
