"""The sheet shows the training pipeline's own images, each where it belongs."""

import io
import itertools

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI

from keras_featx import components, images
from keras_featx import preview as module
from keras_featx.data import pipeline
from keras_featx.data.samples import load_samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.preview import Original, preview, sheet


def opened(png):
    return (255 * matplotlib.image.imread(io.BytesIO(png))[..., :3]).round().astype(int)


def tiles(picture, height, width, rows, columns):
    """Pixels of each tile, from the layout alone: margins on the left and above."""
    found = {}
    for i, k in itertools.product(range(rows), range(columns)):
        top = module.HEADER + i * (height + module.GAP)
        left = module.MARGIN + k * (width + module.GAP) + (k > 0) * (module.GUTTER - module.GAP)
        found[i, k] = picture[top : top + height, left : left + width]
    return found


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((128, 128), (128, 128)),
        ((32, 48), (96, 144)),
        ((64, 64), (128, 128)),
        ((512, 256), (256, 128)),
    ],
)
def test_a_sheet_has_each_image_in_its_place(size, shown):
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 3))

    def flat(colour):
        return np.broadcast_to(colour.astype("uint8"), (*size, 3))

    originals = [Original(7 * i, f"class {i}", f"{i}.png", flat(colours[i, 0])) for i in range(3)]
    asked = []

    def sample(row, number):
        asked.append((row, number))
        return flat(colours[row // 7, 1 + number])

    picture = opened(sheet(originals, sample, draws=4))
    assert asked == [(row, number) for row in (0, 7, 14) for number in range(4)]
    for (i, k), tile in tiles(picture, *shown, 3, 5).items():
        assert tile.shape == (*shown, 3)
        inner = tile[2:-2, 2:-2]
        np.testing.assert_array_equal(inner, np.broadcast_to(colours[i, k], inner.shape))
    margin = picture[module.HEADER :, : module.MARGIN - 4]
    assert (margin.sum(axis=2) < 300).sum() > 100  # there is something to read


def test_small_images_are_shown_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")
    picture = opened(sheet([Original(0, "$a_b$", "$x", image)], lambda *_: image, draws=1))
    large = image.repeat(2, axis=0).repeat(2, axis=1)
    for tile in tiles(picture, 128, 128, 1, 2).values():
        np.testing.assert_array_equal(tile, large)


def test_its_images_are_those_of_training(tiny):
    """Of the first two passes, found by row and pass in the batches that training takes."""
    config = tiny("DataLoader.Train.dataset.transform_ops.1=RandAugment")
    section = config.DataLoader.Train
    listed = load_samples(section.dataset.source, "")
    order = components.builder("sampler", section.sampler.name)(
        listed, config.Global.seed, **section.sampler.args
    )
    steps = 2 * order.steps_per_pass
    batches = pipeline.train_dataset(
        listed, order, config.Arch, section.dataset.transform_ops,
        seed=config.Global.seed, first_step=0, last_step=steps,
    )  # fmt: skip
    seen = {}
    for step, (inputs, _) in enumerate(batches):
        rows, numbers = order.batch(tf.constant(step, tf.int64))
        for row, number, image in zip(
            rows.numpy(), numbers.numpy(), inputs["image"].numpy(), strict=True
        ):
            seen[row, number] = image
    assert len(seen) == 96
    rows = [0, 5, 47]
    sample = module._sample_of_training(config, listed, rows, 2)
    for row, number in itertools.product(rows, range(2)):
        np.testing.assert_array_equal(sample(row, number), seen[row, number])


def test_a_preview_shows_images_from_all_over_the_list(tiny, tmp_path, monkeypatch):
    shown = {}

    def record(originals, sample, draws):
        shown.update(originals=originals, draws=draws)
        return b"a sheet"

    monkeypatch.setattr(module, "sheet", record)
    config = tiny()
    result = preview(config, tmp_path / "p.png", samples=4, draws=2)
    assert result == {"output": str(tmp_path / "p.png"), "images": 4, "draws": 2}
    assert (tmp_path / "p.png").read_bytes() == b"a sheet"
    listed = load_samples(config.DataLoader.Train.dataset.source, "")
    assert [o.row for o in shown["originals"]] == [0, 16, 31, 47]
    for original in shown["originals"]:
        path = listed.paths[original.row]
        assert original.title == f"class {listed.labels[original.row]}"
        assert path.endswith("/" + original.file)
        expected = images.load(tf.constant(path), (32, 32), config.Arch.Preprocess)
        np.testing.assert_array_equal(original.image, expected)
    preview(config, tmp_path / "p.png", samples=100, draws=1)
    assert [o.row for o in shown["originals"]] == list(range(48))


def test_names_and_turns_of_identities_are_shown(tiny, tmp_path, monkeypatch):
    """Without augmentation, every version is the turned image itself."""
    config = tiny(
        "DataLoader.Train.dataset={name: ClassFolders, image_root: "
        f"{EMOJI_MINI / 'train'}, turned_identities: true, transform_ops: []}}"
    )
    shown = {}
    monkeypatch.setattr(module, "sheet", lambda *given: shown.update(given=given) or b"")
    preview(config, tmp_path / "p.png", samples=4, draws=2)
    originals, sample, _ = shown["given"]
    names = sorted(p.name for p in (EMOJI_MINI / "train").iterdir())
    assert originals[0].title == f"{names[0]} turned 0"
    assert originals[-1].title == f"{names[-1]} turned 270"
    assert originals[-1].file.startswith(f"{names[-1]}/")
    for original in originals:
        for number in range(2):
            np.testing.assert_array_equal(sample(original.row, number), original.image)


def test_a_preview_of_a_config_is_a_picture(tiny, tmp_path):
    file = tmp_path / "p.png"
    preview(tiny(), file, samples=2, draws=3)
    picture = opened(file.read_bytes())
    found = tiles(picture, 128, 128, 2, 4)
    assert all(tile.std() > 5 for tile in found.values())
    for i in range(2):
        assert len({found[i, k].tobytes() for k in range(4)}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"draws": 0}, "draws: expected at least 1, got 0"),
        ({"output": "p.jpg"}, "output: expected a name ending in .png, got 'p.jpg'"),
        (
            {"output": "nowhere/p.png"},
            "output: expected a folder that can be written, got nowhere",
        ),
    ],
)
def test_impossible_arguments_are_refused(tiny, arguments, message):
    with pytest.raises(ConfigError) as error:
        preview(tiny(), **arguments)
    assert str(error.value) == message


def test_a_preview_needs_a_list(tiny, tmp_path):
    with pytest.raises(ConfigError) as error:
        preview(tiny("DataLoader.Train=null"), tmp_path / "p.png")
    assert str(error.value) == "DataLoader.Train: missing; expected a list of images to train on"


def test_an_undecodable_image_is_named(tiny, tmp_path):
    broken = tmp_path / "a" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    dataset = f"{{name: ClassFolders, image_root: {tmp_path}, transform_ops: []}}"
    config = tiny(f"DataLoader.Train.dataset={dataset}")
    with pytest.raises(RunError) as error:
        preview(config, tmp_path / "p.png")
    assert f"{broken}: expected a decodable image: " in str(error.value)
    assert not (tmp_path / "p.png").exists()
