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
    classifier = models.build_classifier(extractor, models.build_head(arch()))
    label = np.array([0, 4, 2])
    np.savez(
        tmp_path / "expected.npz",
        embedding=extractor(pixels()),
        logits=classifier({"image": pixels(), "label": label})["logits"],
        pixels=pixels(),
        label=label,
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
        "logits = classifier({'image': z['pixels'], 'label': z['label']})['logits']\n"
        "np.testing.assert_array_equal(logits, z['logits'])\n"
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
