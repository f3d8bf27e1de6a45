"""Distillation: losses against float64 NumPy, the teacher's file, and training with a teacher."""

import csv
import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, tiny_config

from keras_featx import distilling, distribute, losses, models, training, weights
from keras_featx.config import load_config
from keras_featx.data import pipeline
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.exporters import export
from keras_featx.extractors import open_extractor
from keras_featx.training import train
from keras_featx.training_data import load_training_data

TEACHER = "emoji-lcnet-x0_5"
RNG = np.random.default_rng(3)
OURS, THEIRS = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 9))
LOGITS, OTHER = 3 * RNG.normal(size=(6, 11)), 3 * RNG.normal(size=(6, 11))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def divergence(p, q):
    return np.mean(np.sum(p * np.log(p / q), 1))


def huber(a, b):
    d = abs(a - b)
    return d * d / 2 if d <= 1 else d - 0.5


def rkd_distance(s, t):
    """Equations 3 to 5 of arXiv:1904.05068."""
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if i != j]
    ours = np.array([np.linalg.norm(s[i] - s[j]) for i, j in pairs])
    theirs = np.array([np.linalg.norm(t[i] - t[j]) for i, j in pairs])
    return np.mean(
        [huber(*p) for p in zip(ours / ours.mean(), theirs / theirs.mean(), strict=True)]
    )


def rkd_angle(s, t):
    """Equations 6 and 7 of arXiv:1904.05068; the angle is at the second row."""

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        length = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / length if length and np.any(x[i] != x[k]) else None

    rows = range(len(s))
    triples = [(i, j, k) for i in rows for j in rows for k in rows if len({i, j, k}) == 3]
    found = [(cosine(s, *at), cosine(t, *at)) for at in triples]
    return np.mean([huber(a, b) for a, b in found if None not in (a, b)])


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_targets_are_those_of_the_paper(temperature):
    p, q = softmax(OTHER / temperature), softmax(LOGITS / temperature)
    expected = temperature**2 * divergence(p, q)
    found = losses.kl_distillation_loss(LOGITS, OTHER, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    layer = losses.KLDistillation(temperature=temperature, weight=0.5)
    np.testing.assert_allclose(layer(OTHER, LOGITS), expected / 2, rtol=1e-4)
    again = losses.KLDistillation.from_config(layer.get_config())
    assert (again.temperature, again.weight) == (temperature, 0.5)
    # The paper's equation 2, times T^2: T (q - p) for each row.
    x = tf.Variable(LOGITS, dtype="float32")
    with tf.GradientTape() as tape:
        loss = losses.kl_distillation_loss(x, OTHER, temperature=temperature)
    expected = temperature * (q - p) / len(p)
    np.testing.assert_allclose(tape.gradient(loss, x), expected, atol=2e-6 * temperature)


def test_mutual_learning_is_half_of_both_divergences_and_teaches_both():
    p, q = softmax(LOGITS), softmax(OTHER)
    expected = (divergence(p, q) + divergence(q, p)) / 2
    np.testing.assert_allclose(losses.mutual_learning_loss(LOGITS, OTHER), expected, rtol=1e-5)
    # The reference has the mean over rows and classes, times the number of classes.
    theirs = np.mean((p * np.log(p / q) + q * np.log(q / p)) / 2 * p.shape[1])
    np.testing.assert_allclose(expected, theirs, rtol=1e-12)
    one, two = tf.Variable(LOGITS, dtype="float32"), tf.Variable(OTHER, dtype="float32")
    with tf.GradientTape() as tape:
        loss = losses.mutual_learning_loss(one, two)
    assert all(np.abs(g).max() > 1e-3 for g in tape.gradient(loss, (one, two)))


def test_embeddings_are_compared_row_by_row():
    s, t = unit(OURS), unit(THEIRS[:, :5])
    apart = np.linalg.norm(s - t, axis=1)
    expected = {"cosine": 1 - np.mean(np.sum(s * t, 1)), "l2": apart.mean()}
    expected["squared"] = np.mean(apart**2)
    for distance, value in expected.items():
        found = losses.embedding_distillation_loss(s, t, distance=distance)
        np.testing.assert_allclose(found, value, rtol=1e-6)
        layer = losses.EmbeddingDistillation(distance=distance, weight=2.0)
        # The layer makes both unit vectors, and gives every row the batch's number.
        np.testing.assert_allclose(layer(3 * OURS, THEIRS[:, :5]), [2 * value] * 7, rtol=1e-5)
    with pytest.raises(ValueError, match="^distance: expected one of .*, got 'l1'$"):
        losses.embedding_distillation_loss(s, t, distance="l1")


def test_a_projection_stands_between_embeddings_of_other_sizes():
    layer = losses.EmbeddingDistillation(projection="linear")
    found = layer(OURS, THEIRS)
    matrix = np.asarray(layer.matrix, "float64")
    assert matrix.shape == (5, 9) and [v.path for v in layer.trainable_weights] == [
        "embedding_distillation/projection"
    ]
    expected = 1 - np.mean(np.sum(unit(unit(OURS) @ matrix) * unit(THEIRS), 1))
    np.testing.assert_allclose(found, [expected] * 7, rtol=1e-5)


def test_relations_are_those_of_the_paper():
    distance, angle = rkd_distance(OURS, THEIRS), rkd_angle(OURS, THEIRS)
    np.testing.assert_allclose(losses.relation_distance_loss(OURS, THEIRS), distance, rtol=1e-5)
    np.testing.assert_allclose(losses.relation_angle_loss(OURS, THEIRS), angle, rtol=1e-5)
    # Angles and proportions are blind to place, size and turns.
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    for loss in (losses.relation_distance_loss, losses.relation_angle_loss):
        np.testing.assert_allclose(loss(4 * OURS @ turn + 1, OURS), 0, atol=1e-10)
    layer = losses.RelationDistillation(distance_weight=0.5, angle_weight=3.0, weight=2.0)
    s, t = unit(OURS), unit(THEIRS)
    expected = 2 * (0.5 * rkd_distance(s, t) + 3 * rkd_angle(s, t))
    np.testing.assert_allclose(layer(OURS, THEIRS), [expected] * 7, rtol=1e-5)
    raw = losses.RelationDistillation(angle_weight=0.0, normalize_feature=False)
    np.testing.assert_allclose(raw(OURS, THEIRS), [distance] * 7, rtol=1e-5)


def test_the_huber_loss_is_linear_where_angles_differ_by_much():
    s, t = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [-1.0]])
    expected = rkd_angle(s, t)
    assert expected > 0.5  # cosines of -1 and 1, which differ by 2
    np.testing.assert_allclose(losses.relation_angle_loss(s, t), expected, rtol=1e-6)


@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_rows_that_coincide_have_no_angle_and_finite_gradients(whose):
    s, t = OURS.copy(), THEIRS.copy()
    if whose != "teacher":
        s[4] = s[1]
    if whose != "student":
        t[4] = t[1]
    x = tf.Variable(s, dtype="float32")
    for loss, reference in (
        (losses.relation_distance_loss, rkd_distance),
        (losses.relation_angle_loss, rkd_angle),
    ):
        with tf.GradientTape() as tape:
            found = loss(x, t)
        np.testing.assert_allclose(found, reference(s, t), rtol=1e-5)
        assert np.isfinite(tape.gradient(found, x)).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_without_relations_costs_nothing(rows):
    x = tf.Variable(OURS[:rows], dtype="float32")
    with tf.GradientTape() as tape:
        loss = losses.relation_angle_loss(x, THEIRS[:rows])
    assert float(loss) == 0 and not np.any(tape.gradient(loss, x))
    same = losses.relation_distance_loss(np.ones((rows, 3)), np.ones((rows, 4)))
    assert float(same) == 0


@pytest.mark.parametrize("name", ["EmbeddingDistillation", "RelationDistillation"])
def test_two_replicas_compute_what_one_device_does(name):
    ours, theirs = (RNG.normal(size=(8, 6)).astype("float32") for _ in range(2))

    def stepped(strategy):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            image, teacher = keras.Input((6,), name="image"), keras.Input((6,), name="teacher")
            more = {"projection": "linear"} if name == "EmbeddingDistillation" else {}
            loss = getattr(losses, name)(**more)
            value = loss(keras.layers.Dense(4)(image), teacher)
            model = keras.Model({"image": image, "teacher": teacher}, value)
            model.compile(keras.optimizers.SGD(0.5), loss=lambda target, output: output)
        data = tf.data.Dataset.from_tensors(({"image": ours, "teacher": theirs}, np.zeros(8)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(data.unbatch().batch(8), epochs=2, verbose=0)
        return [np.asarray(distribute.read(w)) for w in model.weights]

    mirrored = distribute.get_strategy("mirrored")
    assert mirrored.num_replicas_in_sync == 2
    for one, two in zip(stepped(distribute.get_strategy("single")), stepped(mirrored), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)


@pytest.fixture(scope="module")
def teacher():
    return open_extractor(TEACHER)


@pytest.fixture(scope="module")
def samples():
    rows = [row.split(" ") for row in (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:20]]
    labels = np.array([int(label) for _, label in rows])
    return Samples("list", [str(EMOJI_MINI / p) for p, _ in rows], labels, np.arange(1, 21))


def test_the_file_is_made_once_and_holds_what_the_teacher_says(teacher, samples, tmp_path):
    found = distilling.teacher_embeddings(teacher, samples, tmp_path)
    model = models.build_model(TEACHER)
    images = pipeline.image_dataset(samples, teacher.image_size, teacher.preprocess, 32)
    np.testing.assert_allclose(found, model(next(iter(images))), atol=1e-5)
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert sorted(file.suffix for file in before) == [".json", ".npy"]
    again = distilling.teacher_embeddings(silent(teacher), samples, tmp_path)
    np.testing.assert_array_equal(found, again)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    # Other images, or the same ones in another order, have a file of their own.
    turned = distilling.teacher_embeddings(teacher, samples.take(np.arange(20)[::-1]), tmp_path)
    np.testing.assert_allclose(turned, found[::-1], atol=1e-5)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def changed(teacher, embeddings):
    return dataclasses.replace(teacher, embeddings=embeddings)


def silent(teacher):
    def refuse(batches):
        raise AssertionError("asked again")

    return changed(teacher, refuse)


def test_an_interrupted_file_is_gone_on_with(teacher, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, "BATCH", 8)
    asked = []

    def stopping(batches):
        for i, found in enumerate(teacher.embeddings(batches)):
            if i == 1:
                raise KeyboardInterrupt
            yield found

    def counting(batches):
        for found in teacher.embeddings(batches):
            asked.append(len(found))
            yield found

    with pytest.raises(KeyboardInterrupt):
        distilling.teacher_embeddings(changed(teacher, stopping), samples, tmp_path)
    assert not list(tmp_path.glob("*.npy")) and len(list(tmp_path.glob("*.npy.part"))) == 1
    found = distilling.teacher_embeddings(changed(teacher, counting), samples, tmp_path)
    assert asked == [8, 4]
    whole = distilling.teacher_embeddings(teacher, samples, tmp_path / "other")
    np.testing.assert_array_equal(found, whole)
    assert not list(tmp_path.glob("*.part*"))


def flip(path, note):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut(path, note):
    path.write_bytes(path.read_bytes()[:-8])


def shorter(path, note):
    np.save(path, np.load(path)[:19])


DAMAGES = {
    "a bit": (flip, "expected numbers of SHA-256 .* as in {note}, got .*; it is damaged"),
    "an end": (cut, "expected the teacher's embeddings, with {note} beside it: mmap length .*"),
    "a row": (
        shorter,
        r"expected float32 \(20, 256\), an embedding of the teacher for each training image, got "
        r"float32 \(19, 256\)",
    ),
    "its note": (
        lambda path, note: note.unlink(),
        "expected the teacher's embeddings, with {note} beside it: No such file or directory",
    ),
    "sense": (
        lambda path, note: note.write_text("[]"),
        "expected the teacher's embeddings, with {note} beside it: list indices .*",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_refused(teacher, samples, tmp_path, what):
    distilling.teacher_embeddings(teacher, samples, tmp_path)
    (path,), (note,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    damage, message = DAMAGES[what]
    damage(path, note)
    message = f"^{path}: {message.format(note=note.name)}; remove it to have it made again$"
    with pytest.raises(ConfigError, match=message):
        distilling.teacher_embeddings(silent(teacher), samples, tmp_path)


def test_an_embedding_that_is_no_unit_vector_is_refused(teacher, samples, tmp_path):
    def broken(batches):
        for found in teacher.embeddings(batches):
            found = found.copy()
            found[2] = np.nan
            yield found

    message = (
        f"^{samples.paths[2]}: expected an embedding of norm 1 from {TEACHER}, got one of norm nan$"
    )
    with pytest.raises(RunError, match=message):
        distilling.teacher_embeddings(changed(teacher, broken), samples, tmp_path)


DISTILLED = (
    f"Distillation.teacher={TEACHER}",
    "Distillation.losses=[{name: EmbeddingDistillation, projection: linear},"
    " {name: RelationDistillation, weight: 0.5}]",
    "eval_during_train=false",
    "deterministic=true",
)


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").open()))


LEARNED = {
    "EmbeddingDistillation, projection: linear": "embedding_distillation",
    "RelationDistillation": "relation_distillation",
}


@pytest.mark.parametrize("loss", LEARNED)
def test_a_student_learns_of_its_teacher(tmp_path, loss):
    train(
        tiny_config(
            tmp_path, "eval_during_train=false", "epochs=16", f"Distillation.teacher={TEACHER}",
            f"Distillation.losses=[{{name: {loss}}}]", "Loss.Train=[{name: CELoss, weight: 0}]",
        )
    )  # fmt: skip
    history = [float(row[LEARNED[loss]]) for row in rows(tmp_path / "run")]
    assert np.mean(history[-3:]) < 0.95 * np.mean(history[:3])


def test_a_student_resumes_exactly_with_the_teachers_file_as_it_is(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    cache = f"Distillation.cache={tmp_path / 'cache'}"
    for folder in (whole, stopped):
        folder.mkdir()
    train(tiny_config(whole, *DISTILLED, cache, "epochs=4"))
    assert {"embedding_distillation", "relation_distillation"} <= rows(whole / "run")[0].keys()
    (kept,) = (tmp_path / "cache").glob("*.npy")
    made = kept.stat().st_mtime_ns

    # Stopped after half, with the schedule of all.
    config = tiny_config(stopped, *DISTILLED, cache, "epochs=4")
    with pytest.MonkeyPatch.context() as patch:
        record = training._record_epoch

        def recorded(config, run, net, state, row, *rest):
            record(config, run, net, state, row, *rest)
            if row["epoch"] == 2:
                raise KeyboardInterrupt

        patch.setattr(training, "_record_epoch", recorded)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    latest = stopped / "run" / "latest"
    train(tiny_config(stopped, *DISTILLED, cache, "epochs=4", f"checkpoint={latest}"))
    one, two = (weights.read_arrays(f / "run/latest/weights.npz")[0] for f in (whole, stopped))
    assert one.keys() == two.keys()
    assert any(name.endswith("embedding_distillation/projection") for name in one)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)
    assert kept.stat().st_mtime_ns == made
    # What is deployed has neither the teacher nor the projection.
    run = whole / "run"
    model = models.build_model(
        load_config(run / "config.yaml", [f"pretrained_model={run / 'best_model'}"])
    )
    assert [tensor.name for tensor in model.inputs] == ["image"] and model.output_shape == (
        None,
        16,
    )


def test_a_step_compares_each_image_with_its_own_teacher(tmp_path):
    config = tiny_config(tmp_path, *DISTILLED)
    data = load_training_data(config)
    further = distilling.further_inputs(data.teacher, data.samples, config)
    dataset = config.DataLoader.Train.dataset
    batches = pipeline.train_dataset(
        data.samples, data.order, config.Arch, dataset.transform_ops,
        seed=1, first_step=2, last_step=4, further=further,
    )  # fmt: skip
    everything = np.concatenate(list(data.teacher.embed(data.samples)))
    for step, (inputs, _) in zip((2, 3), batches, strict=True):
        expected = everything[pipeline.batch_rows(data.order, step)]
        np.testing.assert_allclose(inputs["teacher"], expected, atol=1e-5)


def test_an_exported_teacher_does_as_well(tmp_path, trained, samples):
    """The same numbers, and as it is of the same weights the same file."""
    config = load_config(
        trained / "config.yaml",
        [f"pretrained_model={trained / 'best_model'}", f"save_inference_dir={tmp_path / 'out'}"],
    )
    export(config)
    kept = distilling.teacher_embeddings(
        open_extractor(trained / "best_model"), samples, tmp_path / "keras"
    )
    for file in ("model.onnx", "model.tflite"):
        (path,) = (tmp_path / "out").rglob(file)
        found = distilling.teacher_embeddings(open_extractor(path), samples, tmp_path / file)
        np.testing.assert_allclose(found, kept, atol=1e-4)
    assert len({p.name for p in tmp_path.glob("*/*.npy")}) == 1


REFUSED = {
    "missing": (
        ["Distillation.teacher=nowhere"],
        "Distillation.teacher: nowhere: expected an export, a folder of weights, or one of "
        r"\['emoji-lcnet-x0_5'\]",
    ),
    "size": (
        [f"Distillation.teacher={TEACHER}"],
        "Distillation.losses.0.projection: expected 'linear', as an embedding has 16 numbers and "
        "the teacher's 256, got 'none'",
    ),
    "no losses": (
        [f"Distillation.teacher={TEACHER}", "Distillation.losses=[]"],
        r"Distillation.losses: expected at least one loss, got \[\]",
    ),
    "a name": (
        [f"Distillation.teacher={TEACHER}", "Distillation.losses=[{name: RelationDistilation}]"],
        r"Distillation.losses.0.name: expected one of \['EmbeddingDistillation', "
        r"'RelationDistillation'\], got 'RelationDistilation'; did you mean .*",
    ),
    "a weight": (
        [
            f"Distillation.teacher={TEACHER}",
            "Distillation.losses=[{name: RelationDistillation, angle_weight: -1}]",
        ],
        "Distillation.losses.0.angle_weight: expected a number of at least 0, got -1.*",
    ),
    "remote cache": (
        [f"Distillation.teacher={TEACHER}", "Distillation.cache=gs://bucket/teacher"],
        "Distillation.cache: expected a local folder, got 'gs://bucket/teacher'",
    ),
    "mixtures": (
        [*DISTILLED, "DataLoader.Train.dataset.batch_transform_ops=[{name: Mixup}]"],
        r"DataLoader.Train.dataset.batch_transform_ops: expected \[\] with Distillation, as no "
        "teacher has seen the mixtures",
    ),
    "turns": (
        [*DISTILLED, "DataLoader.Train.dataset.turned_identities=true"],
        "DataLoader.Train.dataset.turned_identities: expected false with Distillation, as the "
        "teacher sees upright images",
    ),
    "skipping": (
        [*DISTILLED, "DataLoader.Train.bad_images=skip"],
        "DataLoader.Train.bad_images: expected raise with Distillation, as the teacher sees every "
        "image, got 'skip'",
    ),
    "a service": (
        [*DISTILLED, "DataLoader.Train.service=grpc://host:1"],
        "DataLoader.Train.service: expected none with Distillation, as its workers have no "
        "teacher, got 'grpc://host:1'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_distilled_is_refused_before_anything_is_written(tmp_path, what):
    overrides, message = REFUSED[what]
    with pytest.raises(ConfigError, match=f"^{message}$"):
        train(tiny_config(tmp_path, "eval_during_train=false", *overrides))
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_another_teacher(tmp_path, trained):
    relations = "Distillation.losses=[{name: RelationDistillation}]"
    folder = tmp_path / "student"
    folder.mkdir()
    how = ("eval_during_train=false", relations)
    train(tiny_config(folder, *how, f"Distillation.teacher={TEACHER}", "epochs=1"))
    latest = folder / "run" / "latest"
    other = trained / "best_model"
    prints = [open_extractor(source).fingerprint[:16] for source in (TEACHER, other)]
    with pytest.raises(ConfigError) as caught:
        train(tiny_config(folder, *how, f"Distillation.teacher={other}", f"checkpoint={latest}"))
    assert str(caught.value) == (
        f"Distillation.teacher: expected the one of {latest}, of fingerprint {prints[0]}, got "
        f"{other} of {prints[1]}"
    )


def test_an_image_that_cannot_be_decoded_is_named_before_training(tmp_path):
    tiny_config(tmp_path)  # writes the list
    pictures = tmp_path / "pictures"
    shutil.copytree(EMOJI_MINI / "train", pictures / "train")
    name = (tmp_path / "train.txt").read_text().split()[10]
    (pictures / name).write_bytes(b"no image")
    config = tiny_config(tmp_path, *DISTILLED, f"DataLoader.Train.dataset.image_root={pictures}")
    with pytest.raises(RunError, match=f"train.txt: {pictures / name}: expected a decodable"):
        train(config)
    note = next(Path(config.Global.output_dir, "teacher").glob("*.npy.part.json"))
    assert json.loads(note.read_text())["done"] == 0
