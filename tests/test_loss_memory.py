"""The layer around losses on embeddings: memory, replicas, precision, saving, bad input."""

import inspect
import re

import keras
import loss_loops as loops
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import components, distribute, losses
from keras_featx.losses import miners

LAYERS = {  # class: what its constructor needs
    losses.CenterLoss: {"class_num": 6},
    losses.CircleLoss: {},
    losses.ContrastiveLoss: {},
    losses.EmlLoss: {},
    losses.LiftedStructLoss: {},
    losses.MSMLoss: {},
    losses.MultiSimilarityLoss: {},
    losses.NpairsLoss: {},
    losses.PairwiseCosface: {},
    losses.ProxyAnchorLoss: {"class_num": 6},
    losses.ProxyNCALoss: {"class_num": 6},
    losses.SmoothAPLoss: {},
    losses.SoftNearestNeighborLoss: {},
    losses.SupConLoss: {},
    losses.TriHardLoss: {},
    losses.TripletAngularMarginLoss: {},
    losses.TripletLoss: {},
    losses.TripletLossV2: {},
}
WITHOUT_MEMORY = {
    losses.CenterLoss, losses.LiftedStructLoss, losses.NpairsLoss, losses.ProxyAnchorLoss,
    losses.ProxyNCALoss, losses.SmoothAPLoss,
}  # fmt: skip
RAW = {losses.CenterLoss, losses.EmlLoss, losses.NpairsLoss, losses.TripletLoss}
BATCHES = {
    "unbalanced": [0, 0, 1, 0, 2, 3, 0, 1],
    "no positives": [0, 1, 2, 3],
    "no negatives": [5, 5, 5],
    "one row": [4],
}


def by_name(classes):
    return pytest.mark.parametrize("cls", classes, ids=lambda c: c.__name__)


def random_batch(labels, seed=0, size=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(labels), size)).astype("float32"), np.asarray(labels)


def unit(rows):
    rows = np.asarray(rows, "float64")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def parameters_of(cls):
    """Keyword-only parameters of a constructor and of those above it, the nearest first."""
    found = {}
    for each in reversed(cls.__mro__[: cls.__mro__.index(losses.EmbeddingLoss) + 1]):
        own = inspect.signature(each.__init__).parameters.values()
        found |= {p.name: p for p in own if p.kind == p.KEYWORD_ONLY}
    return found


def value_and_gradient(layer, rows, label, **call):
    rows = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = tf.reduce_mean(layer(rows, label, **call))
    return float(value), np.array(tf.convert_to_tensor(tape.gradient(value, rows)))


# ---- every layer


@by_name(LAYERS)
def test_one_value_for_every_row(cls):
    rows, label = random_batch(BATCHES["unbalanced"])
    keras.utils.set_random_seed(0)
    plain, heavy = cls(**LAYERS[cls]), cls(weight=0.25, **LAYERS[cls])
    value = np.array(plain(rows, label))
    assert value.shape == (8,) and value.dtype == "float32"
    assert (value == value[0]).all() and value[0] > 0
    if plain.trainable_weights:
        heavy.build(rows.shape)
        heavy.set_weights(plain.get_weights())
    np.testing.assert_allclose(heavy(rows, label[:, None]), 0.25 * value, rtol=1e-6)


@by_name(LAYERS)
def test_raw_or_unit_rows_by_default(cls):
    """As the reference has it: scaling the rows changes the losses of raw features alone."""
    rows, label = random_batch(BATCHES["unbalanced"])
    layer = cls(**LAYERS[cls])
    value, doubled = (float(layer(x, label)[0]) for x in (rows, 2 * rows))
    assert (doubled == pytest.approx(value, rel=1e-4)) == (cls not in RAW)
    off = cls(normalize_feature=False, **LAYERS[cls])
    if layer.trainable_weights:
        off.build(rows.shape)
        off.set_weights(layer.get_weights())
    assert (float(off(rows, label)[0]) == pytest.approx(value, rel=1e-4)) == (cls in RAW)


@pytest.mark.parametrize("batch", BATCHES)
@by_name(LAYERS)
def test_values_and_gradients_are_finite(cls, batch):
    rows, label = random_batch(BATCHES[batch])
    layer = cls(**LAYERS[cls])
    for scale in (1.0, 0.0):  # a zero vector has no direction
        value, gradient = value_and_gradient(layer, scale * rows, label, training=True)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@by_name(LAYERS)
def test_the_config_holds_every_parameter(cls):
    own = parameters_of(cls)
    assert all(p.annotation is not p.empty and p.default is not p.empty for p in own.values())
    assert {"weight", "normalize_feature"} <= own.keys()
    assert ("memory_size" in own) == (cls not in WITHOUT_MEMORY)

    def other(p):
        options = getattr(p.annotation, "__args__", ())
        strings = [option for option in options if isinstance(option, str) and option != p.default]
        if strings:
            return strings[0]
        if isinstance(p.default, bool):
            return not p.default
        return 3 if p.annotation in (int, int | None) else 0.125

    changed = {name: other(p) for name, p in own.items()}
    layer = cls(name="other", **changed)
    config = layer.get_config()
    assert {name: config[name] for name in changed} == changed
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is cls and again.get_config() == config


@by_name(LAYERS)
def test_the_schema_is_read_from_the_source(cls):
    schema = components._read_parameters(f"{cls.__module__}:{cls.__name__}")
    expected = {name: (p.annotation, p.default) for name, p in parameters_of(cls).items()}
    assert {name: (p.annotation, p.default) for name, p in schema.items()} == expected


def test_names_read_well_and_can_be_given():
    names = {cls.__name__: cls(**needs).name for cls, needs in LAYERS.items()}
    assert names["TripletLossV2"] == "triplet_loss_v2" and names["MSMLoss"] == "msm_loss"
    assert names["ProxyNCALoss"] == "proxy_nca_loss" and names["SupConLoss"] == "sup_con_loss"
    assert names["TripletAngularMarginLoss"] == "triplet_angular_margin_loss"
    assert len(set(names.values())) == len(names)
    assert losses.SupConLoss().name == "sup_con_loss"  # not sup_con_loss_1
    assert losses.SupConLoss(name="second").name == "second"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@by_name([losses.CircleLoss, losses.TripletLoss, losses.ProxyAnchorLoss, losses.CenterLoss])
def test_float32_under_any_policy(cls, policy):
    rows, label = random_batch(BATCHES["unbalanced"])
    low = tf.cast(rows, policy.removeprefix("mixed_"))
    reference = cls(**LAYERS[cls])
    expected = value_and_gradient(reference, np.array(tf.cast(low, "float32")), label)
    keras.config.set_dtype_policy(policy)
    try:
        memory = {} if cls in WITHOUT_MEMORY else {"memory_size": 4}
        layer = cls(**LAYERS[cls], **memory)
        embedding = keras.Input((4,), dtype=low.dtype)
        assert layer(embedding, keras.Input((), dtype="int32")).dtype == "float32"
        for mine, theirs in zip(layer.trainable_weights, reference.trainable_weights, strict=True):
            mine.assign(theirs)
        value = layer(low, label)
        layer(low, label, training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert value.dtype == "float32"
    assert float(value[0]) == pytest.approx(expected[0], rel=1e-6)
    floats = [w for w in layer.weights if "float" in w.dtype]
    assert floats or not memory
    assert all(w.dtype == "float32" for w in floats)


@pytest.mark.parametrize("base", [2**24, 2**31, 2**40])
def test_labels_that_float32_cannot_tell_apart(base):
    rows, label = random_batch([0, 1, 0, 1])
    plain = losses.SupConLoss(memory_size=8)
    large = losses.SupConLoss(memory_size=8)
    for _ in range(2):
        expected = plain(rows, label, training=True)
        value = large(rows, base + label.astype("int64"), training=True)
        assert float(value[0]) == float(expected[0]) > 0
    assert list(large.memory_label.numpy()) == [base + k for k in [0, 1, 0, 1] * 2]


# ---- memory

MEMORY = {
    "triplet": (losses.TripletLossV2, {}, loops.triplet, {}),
    "angular": (losses.TripletAngularMarginLoss, {}, loops.triplet_angular_margin, {}),
    "contrastive": (losses.ContrastiveLoss, {"margin": 0.1}, loops.contrastive, {"margin": 0.1}),
    "multi-similarity": (losses.MultiSimilarityLoss, {}, loops.multi_similarity, {}),
    "circle": (losses.CircleLoss, {"gamma": 9.0}, loops.circle, {"gamma": 9.0}),
    "supcon": (losses.SupConLoss, {"temperature": 0.3}, loops.supcon, {"temperature": 0.3}),
    "msm": (losses.MSMLoss, {}, loops.margin_sample_mining, {}),
    "soft nearest": (losses.SoftNearestNeighborLoss, {}, loops.soft_nearest_neighbor, {}),
}


class Queue:
    """The newest rows, as a list; the loss of a batch, as loops."""

    def __init__(self, loop, arguments, size, start=0, weight=1.0):
        self.loop, self.arguments = loop, arguments
        self.size, self.start, self.weight = size, start, weight
        self.rows, self.steps = [], 0

    def step(self, rows, label):
        rows = unit(rows)
        if self.steps >= self.start:
            batch = range(len(rows))
            self.rows += [(self.steps, i, rows[i], int(label[i])) for i in batch]
            self.rows = self.rows[-self.size :]
        self.steps += 1

        def value(e):
            e = unit(e)  # the layer normalises
            lists = loops.pair_lists(label)
            loss = self.loop(e, e, *lists, e0=rows, r0=rows, **self.arguments)
            if not self.rows:
                return loss
            memory = np.array([row for _, _, row, _ in self.rows])
            counts = [
                [(step, j) != (self.steps - 1, i) for step, j, _, _ in self.rows]
                for i in range(len(e))
            ]
            labels = [each for _, _, _, each in self.rows]
            lists = loops.pair_lists(label, labels, counts)
            return loss + self.weight * self.loop(
                e, memory, *lists, e0=rows, r0=memory, **self.arguments
            )

        return value


@pytest.mark.parametrize("size, start, weight", [(3, 0, 1.0), (7, 1, 0.5), (40, 2, 2.0)])
@pytest.mark.parametrize("name", MEMORY)
def test_a_sequence_of_batches_equals_a_queue(name, size, start, weight):
    """Memories smaller than a batch, than two, and never full; batches of several sizes."""
    cls, options, loop, arguments = MEMORY[name]
    layer = cls(memory_size=size, memory_start=start, memory_weight=weight, **options)
    queue = Queue(loop, arguments, size, start, weight)
    batches = [[0, 0, 1, 2, 1], [1, 0, 3, 0], [2, 2, 1, 0, 3], [4, 0, 4, 1, 2]]
    for step, labels in enumerate(batches):
        rows, label = random_batch(labels, seed=step)
        value = queue.step(rows, label)
        ours, gradient = value_and_gradient(layer, rows, label, training=True)
        assert ours == pytest.approx(value(rows.astype("float64")), rel=2e-5)
        expected = loops.slope(value, rows.astype("float64"))
        np.testing.assert_allclose(gradient, expected, atol=5e-4 * np.abs(expected).max())
        assert int(layer.memory_count) == len(queue.rows)
        if queue.rows:
            kept = layer.memory.numpy()[-len(queue.rows) :]
            np.testing.assert_allclose(kept, [row for _, _, row, _ in queue.rows], atol=1e-6)


def test_memory_equals_paddleclas_until_it_wraps(data_dir):
    """With 24 rows and batches of 16 its third call overwrites the newest rows, not the oldest."""
    golden = np.load(data_dir / "pairwise_losses_paddle.npz")
    label = golden["label_pk8x2"][:, 0]
    layer = losses.TripletAngularMarginLoss(memory_size=24, memory_start=1)
    queue = Queue(loops.triplet_angular_margin, {}, 24, start=1)
    for call, theirs in enumerate(golden["TripletAngularMarginLoss_XBM/seq"]):
        rows = np.roll(golden["x"], call, axis=1)
        ours = float(layer(rows, label, training=True)[0])
        assert ours == pytest.approx(queue.step(rows, label)(rows), rel=2e-5)
        assert (ours == pytest.approx(theirs, rel=2e-5)) == (call != 2)


@pytest.mark.parametrize("warmup", [0, 1])
def test_memory_equals_tensorflow_similarity(data_dir, warmup):
    """Its XBM gives the memory's part alone, once it has started; before, the batch's."""
    golden = np.load(data_dir / "pairwise_losses_legacy.npz")
    rows, label = golden["input/b_emb"], golden["input/b_labels"]
    values = golden[f"tfsim.XBM(MultiSimilarityLoss,memory_size=14,warmup_steps={warmup})/b/values"]
    # It drops the last rows of its oldest batch first, this package the first: turn each around.
    layer = losses.MultiSimilarityLoss(beta=40.0, memory_size=14, memory_start=warmup)
    for step in range(4):
        now = np.arange(6 * step, 6 * step + 6)[::-1]
        alone = float(layer(rows[now], label[now])[0])
        both = float(layer(rows[now], label[now], training=True)[0])
        expected = values[step] if step < warmup else values[step] + alone
        assert both == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_memory_rests_outside_training():
    layer = losses.TripletLossV2(memory_size=6)
    rows, label = random_batch([0, 0, 1, 1])
    layer(rows, label, training=True)
    before = [w.numpy() for w in layer.weights]
    plain = losses.TripletLossV2()
    for call in ({}, {"training": False}):
        rows, label = random_batch([0, 1, 1], seed=3)
        assert float(layer(rows, label, **call)[0]) == float(plain(rows, label)[0])
        for w, b in zip(layer.weights, before, strict=True):
            np.testing.assert_array_equal(w, b)


def small_model(layer, size=4, seed=0):
    """Linear embedding and loss; `compile` leaves the loss as it is."""
    keras.utils.set_random_seed(seed)
    image, label = keras.Input((6,), name="image"), keras.Input((), dtype="int64", name="label")
    embedding = keras.layers.Dense(size, use_bias=False, name="embedding")(image)
    return keras.Model({"image": image, "label": label}, layer(embedding, label))


def output(_, value):
    """The loss of a model whose output is the loss."""
    return value


def compiled(model):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=output, jit_compile=False)
    return model


def data(batches=4, rows=8, base=2**24):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batches * rows, 6)).astype("float32")
    labels = rng.integers(4, size=batches * rows) + base
    inputs = {"image": images, "label": labels.astype("int64")}
    return tf.data.Dataset.from_tensor_slices((inputs, np.zeros(len(labels)))).batch(rows)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_memory_in_compiled_fit(jit_compile):
    """Each step's loss and the weights after all of them, against a queue and plain descent."""
    model = small_model(losses.SupConLoss(temperature=0.5, memory_size=12, memory_start=1))
    kernel = model.get_layer("embedding").kernel.numpy().astype("float64")
    model.compile(keras.optimizers.SGD(0.2), loss=output, jit_compile=jit_compile)
    queue = Queue(loops.supcon, {"temperature": 0.5}, 12, start=1)
    for inputs, target in data(batches=3, rows=6):
        images, label = np.array(inputs["image"], "float64"), np.array(inputs["label"])
        value = queue.step(images @ kernel, label)
        model.reset_metrics()
        found = model.train_on_batch(inputs, target)
        assert float(found) == pytest.approx(value(images @ kernel), rel=1e-4)
        kernel -= 0.2 * loops.slope(lambda k, x=images, v=value: v(x @ k), kernel)
    np.testing.assert_allclose(model.get_layer("embedding").kernel, kernel, atol=1e-4)


@pytest.mark.parametrize("form", ["model.keras", "model.weights.h5"])
def test_memory_is_saved_with_the_weights(tmp_path, form):
    def layer():
        return losses.CircleLoss(memory_size=10, memory_start=1, miner="distance_weighted")

    model = compiled(small_model(layer()))
    model.fit(data(batches=3), epochs=1, verbose=0, shuffle=False)
    count = int(model.get_layer("circle_loss").memory_count)
    assert count == 10
    if form.endswith(".keras"):
        model.save(tmp_path / form)
        again = keras.saving.load_model(tmp_path / form, compile=False)
    else:
        model.save_weights(tmp_path / form)
        again = small_model(layer(), seed=5)
        again.load_weights(tmp_path / form)
    loaded = again.get_layer("circle_loss")
    assert loaded.memory_size == 10 and int(loaded.step) == 3
    for w, b in zip(loaded.weights, model.get_layer("circle_loss").weights, strict=True):
        np.testing.assert_array_equal(w, b)
    for inputs, _ in data(batches=2):
        expected = np.array(model(inputs, training=True))
        np.testing.assert_array_equal(again(inputs, training=True), expected)


def test_random_miner_draws_anew_each_step_from_the_seed():
    rows, label = random_batch([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])

    def run(seed, steps=6):
        layer = losses.TripletLossV2(miner="distance_weighted", margin=2.0, seed=seed)
        return [float(layer(rows, label, training=True)[0]) for _ in range(steps)]

    first = run(0)
    assert len(set(first)) > 1
    assert run(0) == first != run(1)


# ---- replicas


REPLICATED = {
    "triplet": lambda: losses.TripletLossV2(),
    "multi-similarity with memory": lambda: losses.MultiSimilarityLoss(
        memory_size=13, memory_start=1, memory_weight=0.5
    ),
    "circle with random miner": lambda: losses.CircleLoss(gamma=8.0, miner="distance_weighted"),
    "n-pairs": lambda: losses.NpairsLoss(),
    "proxy anchor": lambda: losses.ProxyAnchorLoss(class_num=4),
    "center": lambda: losses.CenterLoss(class_num=4),
}


def train(strategy, make):
    """Losses after each step, and all weights in the end."""
    with strategy.scope():
        model = compiled(small_model(make()))
    history = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: history.append(logs["loss"])
    )
    model.fit(data(batches=4, base=0), verbose=0, shuffle=False, callbacks=[record])
    return history, [w.numpy() for w in model.weights]


@pytest.mark.parametrize("name", REPLICATED)
def test_two_replicas_equal_one_device(name):
    strategy = distribute.get_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    history, weights = train(strategy, REPLICATED[name])
    expected_history, expected = train(tf.distribute.get_strategy(), REPLICATED[name])
    assert len(history) == 4
    np.testing.assert_allclose(history, expected_history, rtol=1e-5)
    for found, one_device in zip(weights, expected, strict=True):
        largest = np.abs(one_device).max()
        np.testing.assert_allclose(found, one_device, rtol=1e-4, atol=1e-5 * largest)


def test_each_replica_alone_would_differ():
    """The comparison above can fail: halves of the batches do not give its losses."""
    whole, _ = train(tf.distribute.get_strategy(), losses.TripletLossV2)
    rows, _ = zip(*data(batches=4, base=0), strict=True)
    model = small_model(losses.TripletLossV2())
    halves = [
        model({name: value[half] for name, value in rows[0].items()})
        for half in (slice(4), slice(4, 8))
    ]
    assert np.mean(halves) != pytest.approx(whole[0], rel=0.01)


# ---- plain Keras, bad input


def test_functions_serve_as_losses_of_plain_keras():
    keras.utils.set_random_seed(0)
    rows, label = random_batch(BATCHES["unbalanced"], size=6)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4), keras.layers.UnitNormalization()]
    )
    model.compile("sgd", loss=lambda label, embedding: losses.triplet_loss(embedding, label))
    embedding = np.array(model(rows), "float64")
    expected = loops.triplet(embedding, embedding, *loops.pair_lists(label))
    assert model.evaluate(rows, label, verbose=0) == pytest.approx(expected, rel=1e-5)
    history = model.fit(rows, label, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]


NOT_NEGATIVE = "expected a number of at least 0, got"
ABOVE = "expected a number above 0, got"


@pytest.mark.parametrize(
    "cls, arguments, message",
    [
        (losses.TripletLossV2, {"weight": -1.0}, f"weight: {NOT_NEGATIVE} -1.0"),
        (losses.TripletLossV2, {"memory_size": -1}, f"memory_size: {NOT_NEGATIVE} -1"),
        (losses.TripletLossV2, {"memory_start": -2}, f"memory_start: {NOT_NEGATIVE} -2"),
        (losses.TripletLossV2, {"memory_weight": -0.5}, f"memory_weight: {NOT_NEGATIVE} -0.5"),
        (losses.TripletLossV2, {"margin": -0.5}, f"margin: {NOT_NEGATIVE} -0.5"),
        (
            losses.TripletLossV2,
            {"distance": "L2"},
            "distance: expected one of ['l2', 'squared', 'cosine'], got 'L2'",
        ),
        (
            losses.TripletLossV2,
            {"triplets": "easy"},
            "triplets: expected one of ['hard', 'semi_hard', 'all'], got 'easy'",
        ),
        (
            losses.CircleLoss,
            {"miner": "easy"},
            f"miner: expected one of {list(miners.MINERS)}, got 'easy'",
        ),
        (losses.TripletLoss, {"margin": -1.0}, f"margin: {NOT_NEGATIVE} -1.0"),
        (losses.TriHardLoss, {"margin": -1.0}, f"margin: {NOT_NEGATIVE} -1.0"),
        (losses.MSMLoss, {"margin": -1.0}, f"margin: {NOT_NEGATIVE} -1.0"),
        (losses.LiftedStructLoss, {"margin": -1.0}, f"margin: {NOT_NEGATIVE} -1.0"),
        (
            losses.TripletAngularMarginLoss,
            {"absolute_loss_weight": -1.0},
            f"absolute_loss_weight: {NOT_NEGATIVE} -1.0",
        ),
        (
            losses.TripletAngularMarginLoss,
            {"ap_value": 1.5},
            "ap_value: expected a cosine in [-1, 1], got 1.5",
        ),
        (
            losses.TripletAngularMarginLoss,
            {"an_value": -1.5},
            "an_value: expected a cosine in [-1, 1], got -1.5",
        ),
        (
            losses.ContrastiveLoss,
            {"margin": 1.5},
            "margin: expected a cosine in [-1, 1], got 1.5",
        ),
        (
            losses.ContrastiveLoss,
            {"margin": -1.0, "distance": "l2"},
            "margin: expected a distance of at least 0, got -1.0",
        ),
        (
            losses.ContrastiveLoss,
            {"distance": "squared"},
            "distance: expected one of ['cosine', 'l2'], got 'squared'",
        ),
        (losses.MultiSimilarityLoss, {"alpha": 0.0}, f"alpha: {ABOVE} 0.0"),
        (losses.MultiSimilarityLoss, {"beta": 0.0}, f"beta: {ABOVE} 0.0"),
        (losses.MultiSimilarityLoss, {"epsilon": -0.1}, f"epsilon: {NOT_NEGATIVE} -0.1"),
        (
            losses.MultiSimilarityLoss,
            {"base": 2.0},
            "base: expected a cosine in [-1, 1], got 2.0",
        ),
        (losses.CircleLoss, {"margin": 1.1}, "margin: expected a number in [0, 1], got 1.1"),
        (losses.CircleLoss, {"gamma": 0.0}, f"gamma: {ABOVE} 0.0"),
        (losses.PairwiseCosface, {"gamma": -1.0}, f"gamma: {ABOVE} -1.0"),
        (losses.PairwiseCosface, {"margin": -1.0}, f"margin: {NOT_NEGATIVE} -1.0"),
        (losses.NpairsLoss, {"reg_lambda": -1.0}, f"reg_lambda: {NOT_NEGATIVE} -1.0"),
        (losses.SupConLoss, {"temperature": 0.0}, f"temperature: {ABOVE} 0.0"),
        (losses.SupConLoss, {"base_temperature": 0.0}, f"base_temperature: {ABOVE} 0.0"),
        (losses.SoftNearestNeighborLoss, {"temperature": 0.0}, f"temperature: {ABOVE} 0.0"),
        (
            losses.SoftNearestNeighborLoss,
            {"distance": "manhattan"},
            "distance: expected one of ['l2', 'squared', 'cosine'], got 'manhattan'",
        ),
        (losses.SmoothAPLoss, {"temperature": 0.0}, f"temperature: {ABOVE} 0.0"),
        (losses.EmlLoss, {"beta": 0.0}, f"beta: {ABOVE} 0.0"),
    ],
)
def test_bad_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cls(**arguments)
