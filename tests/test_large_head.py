"""Heads for very many classes: sampled centres, centres split over replicas, centres by name."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import checkpoints, distribute, models, weights
from keras_featx.config import from_dict
from keras_featx.data.labels import class_names
from keras_featx.errors import ConfigError
from keras_featx.heads import ArcMargin, Cosine, CurricularFace, SubCenterArcFace, softmax
from keras_featx.optimizers.classes import AdamW, Lion, Momentum

ROOT = Path(__file__).parent.parent
CLASSES, SIZE, BATCH = 24, 8, 8
rng = np.random.default_rng(0)
PIXELS = rng.normal(size=(4 * BATCH, 6)).astype("float32")
LABELS = rng.integers(0, CLASSES, 4 * BATCH).astype("int32")


def build(optimizer, head=ArcMargin, **arguments):
    """A classifier over a single dense layer, the same for every call."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6,), name="image")
    embedding = keras.layers.Dense(SIZE, name="neck")(image)
    unit = keras.layers.UnitNormalization(name="embedding")(embedding)
    extractor = keras.Model(image, unit)
    head = head(class_num=CLASSES, scale=16.0, name="head", **arguments)
    classifier = models.build_classifier(extractor, head)
    models.compile_classifier(classifier, optimizer)
    values = np.random.default_rng(1).normal(size=distribute.shape(head.centres))
    distribute.write(head.centres, values.astype("float32"))
    return checkpoints.Net(classifier, extractor, head)


def dataset(batch=BATCH):
    targets = {"ce_loss": LABELS, "correct": LABELS}
    pairs = ({"image": PIXELS, "label": LABELS}, targets)
    return tf.data.Dataset.from_tensor_slices(pairs).batch(batch, drop_remainder=True)


def state_of(net):
    """Everything that training changes, split weights whole."""
    optimizer = net.classifier.optimizer
    named = {v.path.replace(optimizer.name, "optimizer"): v for v in optimizer.variables}
    named |= {v.path: v for v in net.classifier.variables}
    metrics = {v.path for v in net.classifier.metrics_variables}
    return {
        path: distribute.read(v)
        for path, v in named.items()
        if not distribute.is_transient(v) and path not in metrics and "steps" not in path
    }


def trained(strategy, optimizer, **arguments):
    with distribute.get_strategy(strategy).scope():
        net = build(optimizer(), **arguments)
    history = net.classifier.fit(dataset(), epochs=2, verbose=0, shuffle=False).history
    return net, history


OPTIMIZERS = {
    "momentum": lambda: Momentum(0.1, 0.9, l2=1e-2),
    "adamw": lambda: AdamW(0.01, weight_decay=0.1),
    "clipped": lambda: Momentum(0.1, 0.9, global_clipnorm=0.05),
    "clipped each": lambda: Lion(0.01, clipnorm=0.02),
}
# Of 24 classes, 0.99 are all: a sample that leaves none out.
WAYS = {
    "split on one": ("single", {"split": True}),
    "whole on two": ("mirrored", {}),
    "split on two": ("mirrored", {"split": True}),
    "sampled on one": ("single", {"sample_rate": 0.99}),
    "sampled on two": ("mirrored", {"sample_rate": 0.99}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_full_sample_and_a_split_train_as_the_full_head_does(name):
    whole, expected = trained("single", OPTIMIZERS[name])
    before = state_of(build(OPTIMIZERS[name]()))
    wanted = state_of(whole)
    assert np.abs(wanted["head/centres"] - before["head/centres"]).max() > 1e-3
    for strategy, arguments in WAYS.values():
        net, history = trained(strategy, OPTIMIZERS[name], **arguments)
        np.testing.assert_allclose(history["loss"], expected["loss"], rtol=2e-6)
        assert history["correct_accuracy"] == expected["correct_accuracy"]
        found = state_of(net)
        for path, value in wanted.items():
            np.testing.assert_allclose(found[path], value, atol=5e-6, err_msg=path)


@pytest.mark.parametrize(
    "head",
    [{"head": CurricularFace}, {"head": SubCenterArcFace, "sub_centres": 2}, {"head": Cosine}],
    ids=lambda h: h["head"].__name__,
)
def test_heads_with_statistics_or_sub_centres_split_and_sample_too(head):
    whole, expected = trained("single", OPTIMIZERS["momentum"], **head)
    wanted = state_of(whole)
    for strategy, arguments in list(WAYS.values())[1:]:
        net, history = trained(strategy, OPTIMIZERS["momentum"], **head, **arguments)
        np.testing.assert_allclose(history["loss"], expected["loss"], rtol=2e-6)
        for path, value in wanted.items():
            # Float32 rounding of all updates: of the array's own size, as velocities exceed 1.
            atol = 1e-5 * max(np.abs(value).max(), 0.5)
            np.testing.assert_allclose(state_of(net)[path], value, atol=atol, err_msg=path)


def test_a_replica_holds_only_its_part_of_centres_and_optimizer_state():
    net, _ = trained("mirrored", OPTIMIZERS["momentum"], split=True)
    velocity = next(v for v in net.classifier.optimizer.variables if "centres" in v.path)
    for variable in (net.head.centres, velocity):
        assert [tuple(p.shape) for p in variable.value.values] == [(CLASSES // 2, SIZE)] * 2
    whole, _ = trained("mirrored", OPTIMIZERS["momentum"])
    assert [tuple(p.shape) for p in whole.head.centres.value.values] == [(CLASSES, SIZE)] * 2


def sampled_step(centres, velocity, rows, embedding, label, rate):
    """One step of a sampled Cosine head and momentum 0.9, in float64, row by row."""
    own = {int(row): centres[row] / np.linalg.norm(centres[row]) for row in rows}
    gradient, losses = {row: np.zeros(SIZE) for row in own}, []
    for vector, target in zip(embedding, label, strict=True):
        unit = vector / np.linalg.norm(vector)
        logits = {row: 16.0 * unit @ own[row] for row in own}
        total = sum(np.exp(z) for z in logits.values())
        losses.append(np.log(total) - logits[int(target)])
        for row in own:
            slope = np.exp(logits[row]) / total - (row == target)
            tangent = unit - (unit @ own[row]) * own[row]
            gradient[row] += 16.0 * slope * tangent / np.linalg.norm(centres[row]) / len(label)
    for row in own:
        velocity[row] = 0.9 * velocity[row] + gradient[row]
        centres[row] = centres[row] - rate * velocity[row]
    return np.mean(losses)


def test_sampled_steps_read_and_write_the_sampled_rows_alone():
    net = build(Momentum(0.1, 0.9), Cosine, sample_rate=0.5)
    net.extractor.get_layer("neck").trainable = False
    models.compile_classifier(net.classifier, Momentum(0.1, 0.9))
    centres = distribute.read(net.head.centres).astype("float64")
    velocity, seen = np.zeros_like(centres), []
    vectors = keras.Model(net.extractor.input, net.extractor.get_layer("neck").output)(PIXELS)
    for step in range(8):
        part = slice(step % 4 * BATCH, (step % 4 + 1) * BATCH)
        label = LABELS[part]
        found = net.classifier.train_on_batch(
            {"image": PIXELS[part], "label": label},
            {"ce_loss": label, "correct": label},
            return_dict=True,
        )
        rows = np.asarray(net.head.active_rows)
        assert len(set(rows)) == CLASSES // 2 and set(label) <= set(rows)
        before, velocity_before = centres.copy(), velocity.copy()
        expected = sampled_step(centres, velocity, rows, np.asarray(vectors[part]), label, 0.1)
        assert found["loss"] == pytest.approx(expected, rel=1e-5)
        others = np.setdiff1d(np.arange(CLASSES), rows)
        np.testing.assert_array_equal(centres[others], before[others])
        np.testing.assert_array_equal(velocity[others], velocity_before[others])
        np.testing.assert_allclose(distribute.read(net.head.centres), centres, atol=1e-6)
        banks = [v for v in net.classifier.optimizer.variables if tuple(v.shape) == (24, SIZE)]
        np.testing.assert_allclose(distribute.read(banks[0]), velocity, atol=1e-6)
        seen.append(rows)
    assert len({tuple(sorted(rows)) for rows in seen}) > 4  # a new sample at every step


def test_the_sample_follows_the_seed_and_reaches_every_class_alike():
    def samples(seed, count):
        head = Cosine(class_num=40, sample_rate=0.25, seed=seed)
        head.build((None, 4))
        label = np.zeros(1, "int32")
        embedding = np.ones((1, 4), "float32")
        found = []
        for _ in range(count):
            head(embedding, label, with_loss=True, training=True)
            found.append(np.asarray(head.active_rows))
        return np.array(found)

    first = samples(3, 400)
    np.testing.assert_array_equal(first[:5], samples(3, 5))
    assert (first[:5] != samples(4, 5)).any()
    assert (first[:, 0] == 0).all()  # the own class comes first
    counts = np.bincount(first[:, 1:].ravel(), minlength=40)[1:]
    expected = 400 * 9 / 39
    assert np.sum((counts - expected) ** 2 / expected) < 70  # chi-square, 38 degrees: p 0.001


def test_outside_training_a_sampled_head_sees_all_classes():
    sampled, whole = build(Momentum(0.1), sample_rate=0.5), build(Momentum(0.1))
    inputs = {"image": PIXELS, "label": LABELS}
    for name, value in whole.classifier(inputs).items():
        np.testing.assert_allclose(sampled.classifier(inputs)[name], value, rtol=1e-5)


def tensors(graph):
    """Every tensor of a graph and of the functions it calls."""
    yield from (t for op in graph.get_operations() for t in op.outputs)
    for function in graph._functions.values():
        yield from (t for op in function.graph.get_operations() for t in op.outputs)


def test_no_tensor_of_batch_times_classes_is_made(monkeypatch):
    monkeypatch.setattr(softmax, "BLOCK", 5)
    centres, embedding = tf.ones((23, 4)), tf.ones((7, 4))

    @tf.function
    def step(embedding, centres, position):
        with tf.GradientTape() as tape:
            tape.watch([embedding, centres])
            scores = softmax.Scores(scale=16.0)
            loss, _ = softmax.cross_entropy(embedding, centres, position, (), scores, 0.1)
        return tape.gradient(loss, [embedding, centres])

    graph = step.get_concrete_function(embedding, centres, tf.zeros(7, tf.int32)).graph
    shapes = {tuple(t.shape) for t in tensors(graph) if t.shape.rank == 2 and None not in t.shape}
    assert (23, 4) in shapes and (7, 4) in shapes
    assert not {(7, 23), (23, 7)} & shapes


THREE = """
import sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3)
sys.path.insert(0, "tests")
import test_large_head as t
from keras_featx import checkpoints, distribute
from keras_featx.config import from_dict
with distribute.get_strategy("mirrored").scope():
    net = t.build(t.Momentum(0.1, 0.9), split=True, sample_rate=float(sys.argv[2]))
assert len(net.head.centres.value.values) == 3
net.classifier.fit(t.dataset(6), epochs=1, verbose=0)
checkpoints.save(sys.argv[1], from_dict({}), net, checkpoints.State(epoch=1))
np.savez(sys.argv[1] + "/state.npz", **{k.replace("/", "|"): v for k, v in t.state_of(net).items()})
"""


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 0.75])
def test_a_checkpoint_of_three_parts_goes_on_in_two(tmp_path, rate):
    command = [sys.executable, "-c", THREE, str(tmp_path / "latest"), str(rate)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": "."})
    with distribute.get_strategy("mirrored").scope():
        net = build(Momentum(0.1, 0.9), split=True, sample_rate=rate)
        state = checkpoints.restore(tmp_path / "latest", from_dict({}), net)
    assert state.epoch == 1 and len(net.head.centres.value.values) == 2
    saved = {k.replace("|", "/"): v for k, v in np.load(tmp_path / "latest/state.npz").items()}
    found = state_of(net)
    assert (
        np.abs(saved["optimizer/head_centres_velocity" if rate == 1 else "head/centres"]).max() > 0
    )
    for path, value in saved.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    history = net.classifier.fit(dataset(), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_sampled_run_resumes_bit_for_bit(tmp_path):
    config = from_dict({})
    one = build(Momentum(0.1, 0.9), sample_rate=0.5)
    one.classifier.fit(dataset(), epochs=1, verbose=0, shuffle=False)
    checkpoints.save(tmp_path, config, one, checkpoints.State(epoch=1))
    one.classifier.fit(dataset(), epochs=1, verbose=0, shuffle=False)
    other = build(Momentum(0.1, 0.9), sample_rate=0.5)
    checkpoints.restore(tmp_path, config, other)
    other.classifier.fit(dataset(), epochs=1, verbose=0, shuffle=False)
    for path, value in state_of(one).items():
        np.testing.assert_array_equal(state_of(other)[path], value, err_msg=path)
    assert int(other.head.steps) == int(one.head.steps) == 8


NAMES = [f"identity {i}" for i in range(CLASSES)]


@pytest.mark.parametrize("arguments", [{}, {"head": SubCenterArcFace, "sub_centres": 2}])
def test_a_permuted_class_list_gives_the_same_logits_by_name(tmp_path, arguments, caplog):
    one, other = (build(Momentum(0.1), **arguments) for _ in range(2))
    distribute.write(other.head.centres, 0 * distribute.read(other.head.centres) + 1)
    weights.save_weights(tmp_path, "{}", one.extractor, one.head, class_names=NAMES)
    order = np.random.default_rng(2).permutation(CLASSES)
    names = [NAMES[i] for i in order]
    with caplog.at_level("INFO"):
        found = weights.load_pretrained(str(tmp_path), other.extractor, other.head, None, names)
    assert found.all() and "24 matched, 0 added, 0 dropped" in caplog.text
    vectors = rng.normal(size=(5, SIZE)).astype("float32")
    centres = [distribute.read(net.head.centres) for net in (other, one)]
    each = len(centres[0]) // CLASSES
    rows = (order[:, None] * each + np.arange(each)).ravel()
    np.testing.assert_array_equal(centres[0], centres[1][rows])
    # How a processor sums a product can depend on the column's place: one step of float32.
    expected = one.head(vectors).numpy()[:, order]
    np.testing.assert_allclose(other.head(vectors), expected, rtol=1e-6, atol=2e-6)


def test_a_grown_and_shrunk_class_list_keeps_what_it_knows(tmp_path, caplog):
    one = build(Momentum(0.1))
    weights.save_weights(tmp_path, "{}", one.extractor, one.head, class_names=NAMES)
    names = ["new a", *NAMES[5:10], "new b"]
    head = ArcMargin(class_num=7, name="head")
    head.build((None, SIZE))
    fresh = np.asarray(head.centres)
    with caplog.at_level("INFO"):
        found = weights.load_pretrained(str(tmp_path), one.extractor, head, None, names)
    assert found.tolist() == [False] + [True] * 5 + [False]
    assert "5 matched, 2 added, 19 dropped" in caplog.text
    np.testing.assert_array_equal(head.centres[1:6], one.head.centres[5:10])
    np.testing.assert_array_equal(np.asarray(head.centres)[[0, 6]], fresh[[0, 6]])


def test_a_checkpoint_of_other_names_is_refused(tmp_path):
    net, config = build(Momentum(0.1)), from_dict({})
    checkpoints.save(tmp_path, config, net, checkpoints.State(), NAMES)
    other = [*NAMES[:3], "somebody else", *NAMES[4:]]
    with pytest.raises(ConfigError) as error:
        checkpoints.restore(tmp_path, config, net, other)
    assert str(error.value) == (
        f"{tmp_path / 'weights.npz'}: label 3: expected the name 'somebody else' as in the "
        "training list, got 'identity 3'; Global.pretrained_model finds class centres by name"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0 a\n1 b\n2 a", "class_id_map_file: {f}:3: expected a name of its own for label 2, got "
         "'a', which is label 0's"),
        ("0 a\n1 b\n1 c", "{f}:3: expected each label below 3 once, got 1"),
        ("0 a\n1 b\n3 c", "{f}:3: expected each label below 3 once, got 3"),
        ("0 a\n2 b", "{f}: expected a name for label 1, got none"),
        ("0 a\n1\n2 c", "{f}:2: expected 'label name', got '1'"),
        ("zero a", "{f}:1: expected a label (a number from 0), got 'zero'"),
    ],
)  # fmt: skip
def test_a_class_list_that_names_no_class_alone_is_refused(tmp_path, lines, message):
    file = tmp_path / "names.txt"
    file.write_text(lines)
    with pytest.raises(ConfigError) as error:
        class_names(str(file), 3)
    assert str(error.value) == message.format(f=file)


def test_names_may_hold_blanks_and_any_script(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("1 grüner  Tee\r\n0 緑茶 \n", encoding="utf-8-sig")
    names = class_names(str(file), 2)
    assert names == ["緑茶", "grüner  Tee"]
    assert weights.decode_names(weights.encode_names(names)) == names


def test_training_stores_names_and_imprints_the_added(tiny, tmp_path, caplog):
    names = [f"emoji number {i}" for i in range(8)]
    (tmp_path / "names.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(names)))
    from keras_featx.training import train

    file = f"DataLoader.Train.dataset.class_id_map_file={tmp_path / 'names.txt'}"
    train(tiny(file, "epochs=1", "eval_during_train=false"))
    run = Path(tiny().Global.output_dir)
    arrays, _ = weights.read_arrays(run / "best_model" / "weights.npz")
    assert weights.decode_names(arrays["class_names"]) == names
    renamed = names[::-1][:7] + ["somebody new"]
    (tmp_path / "names.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(renamed)))
    still = "Optimizer.lr={name: Constant, learning_rate: 1e-30}"
    with caplog.at_level("INFO"):
        train(tiny(file, "epochs=1", "eval_during_train=false", still, "imprint_head=true",
                   f"pretrained_model={run / 'best_model'}",
                   f"output_dir={tmp_path / 'second'}"))  # fmt: skip
    assert "7 matched, 1 added, 1 dropped" in caplog.text
    assert "imprinted the centres of 1 classes" in caplog.text
    after, _ = weights.read_arrays(tmp_path / "second/latest/weights.npz")
    np.testing.assert_array_equal(after["head/centres"][:7], arrays["head/centres"][:0:-1])
    assert np.linalg.norm(after["head/centres"][7]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["Arch.Head.sample_rate=0"], "Arch.Head.sample_rate: expected in (0, 1], got 0.0"),
        (["Arch.Head.sample_rate=0.5", "update_freq=2"], "Global.update_freq: expected 1 with "
         "Arch.Head.sample_rate below 1, as each batch has a sample of its own, got 2"),
        (["Arch.Head.sample_rate=0.5"], "Arch.Head.sample_rate: expected room for the 8 classes "
         "that a batch may have, got 0.5 of 8 classes, which is 4"),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_is_refused_before_training(tiny, overrides, message):
    from keras_featx.training import train

    with pytest.raises(ConfigError) as error:
        train(tiny(*overrides))
    assert str(error.value) == message


def test_a_batch_of_more_classes_than_the_sample_is_refused_in_the_step():
    head = Cosine(class_num=40, sample_rate=0.1)
    head.build((None, 4))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more classes than the 4"):
        head(np.ones((5, 4), "float32"), np.arange(5), with_loss=True, training=True)
    repeated = np.array([3, 3, 9, 9, 9])
    loss, _ = head(np.ones((5, 4), "float32"), repeated, with_loss=True, training=True)
    assert np.isfinite(loss).all()
