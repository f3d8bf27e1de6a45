"""Building and saving networks."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, randomize

import keras_featx
from keras_featx import models, weights
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError


def arch(**head):
    return from_dict(
        {
            "Arch": {
                "image_size": [48, 40],
                "Backbone": {"name": "LCNet", "scale": 0.25, "class_expand": 24},
                "Neck": {"name": "Dense", "embedding_size": 16, "batch_norm": True},
                "Head": {"name": "ArcMargin", "class_num": 5, **head},
            }
        }
    ).Arch


def pixels(batch=3):
    return np.random.default_rng(0).integers(0, 256, (batch, 48, 40, 3)).astype("uint8")


def losses_of(*parts, class_num=None):
    """Losses of a config's ``Loss.Train``."""
    return models.build_losses(from_dict({"Loss": {"Train": list(parts)}}).Loss, class_num)


def test_the_extractor_gives_unit_vectors_for_uint8_and_float_alike():
    model = randomize(models.build_extractor(arch()))
    assert isinstance(model, keras.Model) and model.output_shape == (None, 16)
    one, two = model.predict(pixels(), verbose=0), model.predict(pixels().astype("f4"), verbose=0)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
    alone = np.concatenate([model.predict(pixels()[i : i + 1], verbose=0) for i in range(3)])
    np.testing.assert_allclose(alone, one, atol=1e-5)


def test_pixels_are_normalised_as_the_config_says():
    section = arch().Preprocess
    model = models.build_extractor(arch())
    layer = keras.Model(model.input, model.get_layer("normalise_pixels").output)
    expected = (pixels() / 255.0 - np.array(section.mean)) / np.array(section.std)
    np.testing.assert_allclose(layer(pixels()), expected, atol=2e-6)


def test_a_saved_model_loads_in_a_fresh_process(tmp_path):
    extractor = randomize(models.build_extractor(arch()))
    losses = losses_of({"CELoss": {"epsilon": 0.1}}, {"ProxyNCALoss": {}}, class_num=5)
    classifier = models.build_classifier(extractor, models.build_head(arch()), losses)
    label = np.array([0, 4, 2])
    np.savez(
        tmp_path / "expected.npz",
        embedding=extractor(pixels()),
        pixels=pixels(),
        label=label,
        **{f"of {k}": v for k, v in classifier({"image": pixels(), "label": label}).items()},
    )
    extractor.save(tmp_path / "extractor.keras")
    classifier.save(tmp_path / "classifier.keras")
    code = (
        "import numpy as np, keras_featx\n"
        "z = np.load('expected.npz')\n"
        "extractor = keras_featx.load_model('extractor.keras')\n"
        "classifier = keras_featx.load_model('classifier.keras')\n"
        "assert abs(np.linalg.norm(z['embedding'], axis=1) - 1).max() < 1e-6\n"
        "np.testing.assert_array_equal(extractor(z['pixels']), z['embedding'])\n"
        "outputs = classifier({'image': z['pixels'], 'label': z['label']})\n"
        "assert {'ce_loss', 'proxy_nca_loss', 'correct'} == set(outputs)\n"
        "for name, value in outputs.items():\n"
        "    np.testing.assert_array_equal(value, z['of ' + name])\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)


def test_load_model_refuses_what_is_no_model(tmp_path):
    (tmp_path / "a.keras").write_text("no")
    for name, message in {
        "a.keras": "expected a Keras model",
        "b.keras": "expected a file",
    }.items():
        with pytest.raises(ConfigError, match=message):
            keras_featx.load_model(tmp_path / name)


def test_a_summary_is_readable():
    lines = []
    models.build_extractor(arch()).summary(print_fn=lambda text, **_: lines.append(text))
    text = "\n".join(lines)
    for name in ("image", "normalise_pixels", "conv1_conv", "blocks6_1_se_conv2", "neck"):
        assert name in text


def network(*parts):
    """Classifier over a single dense layer, its head, inputs, and embeddings as they are."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6,), name="image")
    neck = keras.layers.Dense(4, name="neck")
    unit = keras.layers.UnitNormalization(name="embedding")(neck(image))
    extractor, head = keras.Model(image, unit), models.build_head(arch())
    classifier = models.build_classifier(extractor, head, losses_of(*parts) if parts else None)
    x = np.random.default_rng(0).normal(size=(6, 6)).astype("float32")
    feed = {"image": x, "label": np.array([0, 4, 2, 2, 0, 4])}
    return classifier, head, feed, np.asarray(neck(x))


def softmax_loss(logits, label, epsilon=0.0):
    """Cross-entropy of each row in float64, of targets smoothed by epsilon."""
    logits = np.asarray(logits, "float64")
    target = (1 - epsilon) * np.eye(logits.shape[1])[label] + epsilon / logits.shape[1]
    return np.log(np.exp(logits).sum(axis=1)) - (target * logits).sum(axis=1)


def test_a_classifier_gives_the_loss_of_each_row_and_what_is_correct():
    classifier, head, feed, raw = network()
    centres = np.asarray(head.centres).copy()
    centres[feed["label"][:3]] = raw[:3] + 0.2  # some rows are where they belong
    head.centres.assign(centres)
    outputs = classifier(feed)
    assert sorted(outputs) == ["ce_loss", "correct"]
    expected = softmax_loss(head(raw, feed["label"]), feed["label"])
    np.testing.assert_allclose(outputs["ce_loss"], expected, rtol=1e-5, atol=1e-5)
    nearest = np.argmax(raw @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T, axis=1)
    np.testing.assert_array_equal(outputs["correct"], nearest == feed["label"])
    assert 0 < np.mean(outputs["correct"]) < 1


def test_losses_have_their_weights_and_embeddings_as_they_are():
    classifier, head, feed, raw = network(
        {"CELoss": {"weight": 2.0, "epsilon": 0.1}},
        {"TripletLoss": {"margin": 0.5, "weight": 3.0}},
        {"TripletLossV2": {"margin": 0.5}},
        {"TripletLoss": {"margin": 0.1}},
    )
    label = feed["label"]
    outputs = classifier(feed)
    names = ["ce_loss", "triplet_loss", "triplet_loss_v2", "triplet_loss_2", "correct"]
    assert sorted(outputs) == sorted(names)
    expected = 2 * softmax_loss(head(raw, label), label, 0.1)
    np.testing.assert_allclose(outputs["ce_loss"], expected, rtol=1e-5, atol=1e-5)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    vectors = {"triplet_loss": raw, "triplet_loss_v2": unit, "triplet_loss_2": raw}
    for name, margin, weight in zip(vectors, (0.5, 0.5, 0.1), (3, 1, 1), strict=True):
        distance = np.linalg.norm(vectors[name][:, None] - vectors[name], axis=-1)
        same = label[:, None] == label
        terms = [
            max(d[s].max() - d[~s].min() + margin, 0) for d, s in zip(distance, same, strict=True)
        ]
        np.testing.assert_allclose(outputs[name], np.full(6, weight * np.mean(terms)), rtol=1e-4)


def test_a_compiled_classifier_minimises_the_sum_of_its_losses():
    parts = {"CELoss": {"weight": 0.5}}, {"TripletLossV2": {"margin": 0.5, "weight": 2.0}}
    classifier, _, feed, _ = network(*parts)
    models.compile_classifier(classifier, keras.optimizers.SGD(0.0))
    outputs = classifier(feed)  # moving statistics, as in evaluate
    targets = dict.fromkeys(outputs, feed["label"])
    found = classifier.evaluate(feed, targets, batch_size=6, verbose=0, return_dict=True)
    means = {name: float(np.mean(value)) for name, value in outputs.items()}
    assert found["loss"] == pytest.approx(means["ce_loss"] + means["triplet_loss_v2"], rel=1e-5)
    assert found["ce_loss_loss"] == pytest.approx(means["ce_loss"], rel=1e-5)
    assert found["correct_accuracy"] == pytest.approx(means["correct"])
    models.compile_classifier(classifier, keras.optimizers.SGD(0.05))
    steps = [classifier.train_on_batch(feed, targets, return_dict=True)["loss"] for _ in range(10)]
    assert steps[-1] < 0.9 * steps[0]


def test_a_classifier_may_do_without_a_head():
    extractor = models.build_extractor(arch())
    losses = losses_of({"MultiSimilarityLoss": {}})
    classifier = models.build_classifier(extractor, None, losses)
    assert sorted(classifier.output) == ["multi_similarity_loss"]
    models.compile_classifier(classifier, "sgd")
    feed = {"image": pixels(4), "label": np.array([0, 0, 1, 1])}
    found = classifier.train_on_batch(feed, {"multi_similarity_loss": feed["label"]})
    assert np.isfinite(found).all()
    assert [layer.name for layer in models.loss_layers(classifier)] == ["multi_similarity_loss"]


def test_losses_get_the_number_of_classes_unless_they_state_it():
    parts = {"ProxyNCALoss": {}}, {"CenterLoss": {"class_num": 9}}, {"ProxyNCALoss": {}}
    losses = losses_of(*parts, class_num=5)
    assert list(losses) == ["proxy_nca_loss", "center_loss", "proxy_nca_loss_2"]
    assert [loss.class_num for loss in losses.values()] == [5, 9, 5]
    assert list(losses) == [loss.name for loss in losses.values()]


def test_refusals_of_losses_name_their_place_in_the_list():
    with pytest.raises(ConfigError) as error:
        losses_of({"CELoss": {}}, {"CELoss": {"epsilon": 1.0}})
    assert str(error.value) == "Loss.Train.1.epsilon: expected in [0, 1), got 1.0"
    with pytest.raises(ConfigError) as error:
        losses_of({"ProxyNCALoss": {}})
    assert str(error.value) == "Loss.Train.0.class_num: expected a positive number, got None"


def test_two_cross_entropies_cannot_sample():
    extractor = models.build_extractor(arch())
    losses = losses_of({"CELoss": {}}, {"CELoss": {"epsilon": 0.1}})
    head = models.build_head(arch(sample_rate=0.8))
    with pytest.raises(ConfigError) as error:
        models.build_classifier(extractor, head, losses)
    assert str(error.value) == (
        "Arch.Head.sample_rate: expected 1 with two CELoss, each would sample"
    )


def test_a_class_count_that_disagrees_is_refused():
    with pytest.raises(ConfigError) as error:
        models.build_head(arch(), 7)
    assert str(error.value) == (
        "Arch.Head.class_num: expected 7, the classes of the training list, got 5"
    )
    with pytest.raises(ConfigError, match="^Arch.Head.class_num: missing$"):
        models.build_head(from_dict({}).Arch)


@pytest.mark.parametrize("name", weights.shipped())
def test_shipped_weights_are_taken_by_name(name):
    by_name = keras_featx.build_model(name)
    config = weights.shipped_config(name)
    by_config = keras_featx.build_model(config)
    size = config.Arch.image_size
    image = np.random.default_rng(1).integers(0, 256, (2, *size, 3)).astype("uint8")
    np.testing.assert_array_equal(by_name(image), by_config(image))
    np.testing.assert_allclose(np.linalg.norm(by_name(image), axis=1), 1, atol=1e-6)


def test_the_package_ships_weights():
    assert weights.shipped() == ["emoji-lcnet-x0_5"]


def test_shipped_weights_have_not_seen_the_identities_they_are_measured_on():
    """Neither by name of the identity nor by the picture's path."""
    mini = ROOT / "keras_featx/assets/emoji_mini"
    folder = weights.SHIPPED / "emoji-lcnet-x0_5"
    seen = {row.split("/")[2] for row in (folder / "train_list.txt").read_text().splitlines()}
    unseen = set()
    for name in ("query_list.txt", "gallery_list.txt"):
        unseen |= {row.split("/")[1] for row in (mini / name).read_text().splitlines()}
    assert len(unseen) == 40 and len(seen) == 841
    assert not seen & unseen
    stated = weights.shipped_config("emoji-lcnet-x0_5").DataLoader.Train.dataset.source
    assert stated.args["cls_label_path"].endswith("emoji-lcnet-x0_5/train_list.txt")
    fine_tuned = {row.split("/")[1] for row in (mini / "train_list.txt").read_text().splitlines()}
    assert len(fine_tuned) == 80 and not fine_tuned & unseen
