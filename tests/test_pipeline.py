"""What a row becomes: boxes, images in memory, shares of a batch, bad images that are skipped."""

import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI
from PIL import Image

import keras_featx
from keras_featx import images
from keras_featx.data import faults, memory, pipeline
from keras_featx.data.lists import imagenet_list
from keras_featx.data.samplers import pk_sampler, shuffle
from keras_featx.data.samples import Samples, turned_identities
from keras_featx.embedding import embed, embed_usable
from keras_featx.errors import ConfigError, RunError
from keras_featx.models import build_model
from keras_featx.sections import ArchSection, Component, PreprocessSection

ARCH = ArchSection(image_size=(32, 32))
OPS = (
    Component(name="RandomResizedCrop", args={"scale": (0.3, 1.0)}),
    Component(name="RandomFlip"),
    Component(name="ColorJitter", args={"brightness": 0.2}),
)


@pytest.fixture
def samples():
    listed = imagenet_list(
        image_root=str(EMOJI_MINI), cls_label_path=str(EMOJI_MINI / "train_list.txt")
    )
    return listed.take(np.arange(48))


def batches(samples, order, ops=OPS, steps=(0, 4), **arguments):
    made = pipeline.train_dataset(
        samples, order, ARCH, ops, seed=3, first_step=steps[0], last_step=steps[1], **arguments
    )
    return [(x["image"].numpy(), x["label"].numpy()) for x, _ in made]


def equal(found, expected):
    assert len(found) == len(expected) > 0
    for (image, label), (other, wanted) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, other)
        np.testing.assert_array_equal(label, wanted)


# Boxes


def noise_files(tmp_path, sizes):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3)).astype("uint8") for size in sizes]
    paths = [str(tmp_path / f"{i}.png") for i in range(len(sizes))]
    for picture, path in zip(pictures, paths, strict=True):
        Image.fromarray(picture).save(path)
    return pictures, paths


def of_size_32(boxes, tmp_path, **arguments):
    pictures, paths = noise_files(tmp_path, [(40, 60), (50, 44)])
    rows = np.arange(2)
    samples = Samples("list", paths, np.zeros(2, int), rows, boxes=np.array(boxes), **arguments)
    return pictures, samples


def test_a_box_is_the_part_that_is_used(tmp_path):
    """Boxes of the network's size, so that nothing is resized; the whole image where it is zero."""
    pictures, samples = of_size_32([[3, 7, 35, 39], [12, 18, 44, 50]], tmp_path)
    found = next(iter(pipeline.image_dataset(samples, (32, 32), PreprocessSection(), 8))).numpy()
    np.testing.assert_array_equal(found[0], pictures[0][7:39, 3:35])
    np.testing.assert_array_equal(found[1], pictures[1][18:50, 12:44])
    in_memory = dataclasses.replace(samples, pixels=pictures)
    again = next(iter(pipeline.image_dataset(in_memory, (32, 32), PreprocessSection(), 8)))
    np.testing.assert_array_equal(again, found)


def test_a_box_of_zeros_is_the_whole_image(tmp_path):
    _, samples = of_size_32([[0, 0, 0, 0]] * 2, tmp_path)
    whole = dataclasses.replace(samples, boxes=None)
    found, expected = (
        next(iter(pipeline.image_dataset(s, (32, 32), PreprocessSection(), 8)))
        for s in (samples, whole)
    )
    np.testing.assert_array_equal(found, expected)


class Counted(np.ndarray):
    """An array that counts how often something is taken from it."""

    taken = 0

    def __getitem__(self, key):
        Counted.taken += 1
        return np.asarray(self)[key]


def test_an_array_of_the_network_s_size_is_taken_batch_by_batch(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 40, 3)).astype("uint8")
    np.save(tmp_path / "pixels.npy", pixels)
    for array in (pixels, np.load(tmp_path / "pixels.npy", mmap_mode="r")):
        samples = memory.from_arrays(array, np.zeros(11, int))
        found = list(pipeline.image_dataset(samples, (32, 40), PreprocessSection(), 4))
        assert [len(batch) for batch in found] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate(found), pixels)
    samples = dataclasses.replace(samples, pixels=pixels.view(Counted))
    Counted.taken = 0
    list(pipeline.image_dataset(samples, (32, 40), PreprocessSection(), 4))
    assert Counted.taken == 3


@pytest.mark.parametrize("what", ["size", "resize_short", "boxes"])
def test_an_array_that_is_not_ready_is_made_so(what):
    """By this package's resizing of each image, which has tests of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")
    samples = memory.from_arrays(pixels, np.zeros(5, int))
    preprocess, size, parts = PreprocessSection(), (32, 32), pixels
    if what == "size":
        size = (32, 24)
    elif what == "resize_short":
        preprocess = PreprocessSection(resize="crop", resize_short=40)
    else:
        samples = dataclasses.replace(samples, boxes=np.array([[4, 4, 20, 20]] * 5))
        parts = pixels[:, 4:20, 4:20]
    expected = np.stack([images.resize(part, size, preprocess) for part in parts])
    found = np.concatenate(list(pipeline.image_dataset(samples, size, preprocess, 2)))
    np.testing.assert_array_equal(found, expected)
    assert found.shape != pixels.shape or np.abs(found.astype(int) - pixels).max() > 0


def test_random_windows_stay_in_the_box(tmp_path):
    """Only the box is white: every augmented pixel is, too."""
    pixels = np.zeros((60, 60, 3), "uint8")
    pixels[20:45, 10:50] = 255
    path = str(tmp_path / "white.png")
    Image.fromarray(pixels).save(path)
    samples = Samples("list", [path], np.zeros(1, int), [1], boxes=np.array([[10, 20, 50, 45]]))
    sample = pipeline.train_sample(samples, ARCH, OPS[:2], 0)
    for number in range(40):
        assert sample(tf.constant(0, tf.int64), tf.constant(number, tf.int64)).numpy().min() == 255


def test_a_box_beyond_the_image_is_named(tmp_path):
    extractor = build_model("emoji-lcnet-x0_5")
    _, samples = of_size_32([[0, 0, 0, 0], [0, 0, 45, 50]], tmp_path)
    with pytest.raises(RunError) as error:
        embed(extractor, samples)
    assert str(error.value) == (
        f"list: {samples.paths[1]}: expected a box inside the image, got left, top, right, bottom "
        "[0, 0, 45, 50] of an image of height, width [50, 44]"
    )


# Images in memory


def pillow(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_arrays_give_the_batches_of_their_files(samples):
    order = shuffle(samples, 3, batch_size=12)
    pixels = [pillow(path) for path in samples.paths]
    arrays = memory.from_arrays(pixels, samples.labels)
    stacked = memory.from_arrays(np.stack(pixels), samples.labels)
    expected = batches(samples, order)
    equal(batches(arrays, order), expected)
    equal(batches(stacked, order), expected)


def test_decoded_images_give_the_batches_of_their_files(samples):
    turned = turned_identities(samples)
    order = shuffle(turned, 3, batch_size=12)
    kept = turned_identities(memory.decoded(samples, PreprocessSection()))
    assert kept.pixels[0] is kept.pixels[3]  # four turns share their pixels
    equal(batches(kept, order), batches(turned, order))


def test_decoding_into_memory_names_a_bad_image(tmp_path, samples):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    samples.paths[5] = str(bad)
    with pytest.raises(RunError) as error:
        memory.decoded(samples, PreprocessSection())
    assert str(error.value).startswith(f"{samples.source}: {bad}: expected a decodable image: ")


def test_what_does_not_fit_in_memory_is_refused(samples, monkeypatch):
    monkeypatch.setattr(memory, "SHARE", 0)
    samples = samples.take(np.arange(300) % 48)
    with pytest.raises(ConfigError, match=r"cache: memory: .* need about \d+ MiB more, of \d+ MiB"):
        memory.decoded(samples, PreprocessSection())


@pytest.mark.parametrize("batch", [None, 5])
def test_a_dataset_is_read_once_into_memory(samples, batch):
    pixels = np.stack([pillow(path) for path in samples.paths])
    dataset = tf.data.Dataset.from_tensor_slices((pixels, samples.labels))
    if batch:
        dataset = dataset.batch(batch)
    found = memory.as_samples(dataset, "data")
    assert found.labels.tolist() == samples.labels.tolist()
    np.testing.assert_array_equal(np.stack(found.pixels), pixels)
    assert found.title(4) == "data[4] (row 4 of data)"


def test_a_dataset_of_encoded_images_with_names(samples):
    data = [open(path, "rb").read() for path in samples.paths[:3]]
    names = ["b", "a", "b"]
    dataset = tf.data.Dataset.from_tensor_slices((data, names))
    found = memory.as_samples(dataset, "data")
    assert found.names == ["a", "b"] and found.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(found.pixels[1], pillow(samples.paths[1]))


def test_float_and_grey_images_are_taken_as_0_to_255():
    grey = np.full((4, 4), 200.4)
    found = memory.from_arrays([grey, grey[..., None].astype("float32")], [0, 1])
    assert found.pixels[0].dtype == np.uint8
    assert (np.stack(found.pixels) == 200).all() and found.pixels[0].shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    [
        ([np.zeros((4, 4, 3), "uint8")], [0, 1], "expected a label for each image, got 1 images"),
        ([], [], "expected a label for each image, got 0 images and 0 labels"),
        ([np.zeros((4, 4, 4), "uint8")], [0], r"arrays\[0\]: expected an image .* \(4, 4, 4\)"),
        ([np.zeros((0, 4, 3), "uint8")], [0], r"arrays\[0\]: expected an image .* \(0, 4, 3\)"),
        ([np.full((4, 4, 3), 0.5)], [0], r"in 0\.\.255, got float64 from 0.5 to 0.5"),
        ([np.full((4, 4, 3), 300)], [0], r"in 0\.\.255, got int64 from 300 to 300"),
        ([np.full((4, 4, 3), -1.0)], [0], r"in 0\.\.255, got float64 from -1 to -1"),
        ([np.full((4, 4, 3), np.nan)], [0], r"in 0\.\.255, got float64 from nan to nan"),
        ([np.zeros((4, 4, 3), "uint8")], [-1], r"arrays:0: expected a label"),
    ],
)
def test_arrays_that_are_no_images_are_refused(pictures, labels, message):
    with pytest.raises(ConfigError, match=message):
        memory.from_arrays(pictures, labels)


def test_datasets_that_are_something_else_are_refused():
    ones = tf.data.Dataset.from_tensors(tf.ones((4, 4, 3)))
    with pytest.raises(ConfigError, match="expected elements \\(image, label\\)"):
        memory.as_samples(ones, "data")
    with pytest.raises(ConfigError, match="expected a dataset that ends"):
        memory.as_samples(tf.data.Dataset.zip(ones, ones).repeat(), "data")
    with pytest.raises(ConfigError, match="data: expected images, got an empty dataset"):
        memory.as_samples(tf.data.Dataset.zip(ones, ones).take(0), "data")
    with pytest.raises(ConfigError, match="data: expected .images, labels., a tf.data.Dataset"):
        memory.as_samples("folder", "data")


def test_training_and_evaluation_on_arrays_equal_those_on_files(tiny, tmp_path):
    """The whole run on images given in Python: the same loss and the same metrics."""
    config = tiny("epochs=1", "deterministic=true")
    from keras_featx.evaluation_data import load_eval_samples
    from keras_featx.training_data import load_training_data

    listed = load_training_data(config).samples
    query, gallery = load_eval_samples(config)
    given = [([pillow(p) for p in s.paths], s.labels) for s in (listed, query, gallery)]
    expected = keras_featx.train(config)
    found = keras_featx.train(config, *given)
    same = ("loss", "accuracy", "recall@1", "map")
    assert {k: found[k] for k in same} == {k: expected[k] for k in same}


# Several machines


@pytest.mark.parametrize("count", [1, 2, 3])
def test_machines_share_a_batch_without_overlap(samples, count):
    order = pk_sampler(samples, 3, batch_size=12, sample_per_id=3)
    whole = batches(samples, order)
    shares = [batches(samples, order, worker=(i, count)) for i in range(count)]
    for step, expected in enumerate(whole):
        joined = [np.concatenate(parts) for parts in zip(*(s[step] for s in shares), strict=True)]
        equal([tuple(joined)], [expected])


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ((0, 5), "DataLoader.Train.sampler.batch_size: expected a multiple of 5 machines, got 12"),
        ((2, 2), "worker: expected an index below the count, got [2, 2]"),
    ],
)
def test_impossible_shares_are_refused(worker, message):
    with pytest.raises(ConfigError) as error:
        pipeline.share_of(12, worker)
    assert str(error.value) == message


def test_a_service_delivers_each_batch_once(samples):
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [
        tf.data.experimental.service.WorkerServer(
            tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
        )
        for _ in range(2)
    ]
    order = shuffle(samples, 3, batch_size=8)
    expected = batches(samples, order, steps=(0, 6))
    found = batches(samples, order, steps=(0, 6), service=dispatcher.target)
    key = lambda batch: batch[0].tobytes()  # noqa: E731
    equal(sorted(found, key=key), sorted(expected, key=key))
    assert workers


def test_a_service_reads_only_files(samples):
    """What runs Python cannot be sent to another process."""
    order = shuffle(samples, 3, batch_size=8)
    arrays = memory.decoded(samples, PreprocessSection())
    for given, skipped in ((arrays, None), (samples, faults.Skipped(samples, 0.1))):
        with pytest.raises(ConfigError) as error:
            batches(given, order, service="grpc://localhost:1", skipped=skipped)
        assert str(error.value) == (
            "DataLoader.Train.service: expected with images in files of their own, without cache "
            "and with bad_images: raise, as its workers run no Python"
        )


# Bad images


@pytest.fixture
def spoilt(samples, tmp_path):
    """Samples of which rows 4 and 30 cannot be decoded."""
    for row, data in ((4, b""), (30, open(samples.paths[30], "rb").read()[:200])):
        path = tmp_path / f"bad{row}.png"
        path.write_bytes(data)
        samples.paths[row] = str(path)
    return samples


def test_an_image_of_its_identity_stands_in_for_a_bad_one(samples, spoilt, tmp_path):
    """The rest of every batch is as without skipping, and so are the labels of P x K."""
    good = imagenet_list(
        image_root=str(EMOJI_MINI), cls_label_path=str(EMOJI_MINI / "train_list.txt")
    ).take(np.arange(48))
    order = pk_sampler(spoilt, 3, batch_size=12, sample_per_id=3)
    skipped = faults.Skipped(spoilt, 0.1, tmp_path / "skipped.csv")
    found = batches(spoilt, order, steps=(0, 8), skipped=skipped)
    expected = batches(good, order, steps=(0, 8))
    replaced = 0
    for step, ((image, label), (other, wanted)) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(label, wanted)
        bad = np.isin(pipeline.batch_rows(order, step), [4, 30])
        np.testing.assert_array_equal(image[~bad], other[~bad])
        for place in np.flatnonzero(bad):
            replaced += 1
            same = [i for i in np.flatnonzero(~bad) if label[i] == label[place]]
            assert any((image[place] == image[i]).all() for i in same)
    assert replaced >= 2 and len(skipped) == 2
    equal(batches(spoilt, order, steps=(5, 8), skipped=skipped), found[5:])  # resumed
    with open(tmp_path / "skipped.csv", newline="") as file:
        lines = sorted((int(x["row"]), x["image"], x["reason"]) for x in csv.DictReader(file))
    assert [line[:2] for line in lines] == [(5, spoilt.paths[4]), (31, spoilt.paths[30])]
    assert lines[0][2] == "the file is empty" and lines[1][2]
    assert len(faults.Skipped(spoilt, 0.1, tmp_path / "skipped.csv")) == 2


def test_too_many_bad_images_end_training(spoilt, tmp_path):
    order = shuffle(spoilt, 3, batch_size=48)
    skipped = faults.Skipped(spoilt, 0.03)
    with pytest.raises(tf.errors.OpError):
        batches(spoilt, order, steps=(0, 1), skipped=skipped)
    assert str(skipped.error).startswith(
        f"DataLoader.Train.max_bad_fraction: 2 images of {spoilt.source} cannot be used, the last "
        f"{spoilt.paths[30]}: "
    )
    assert str(skipped.error).endswith("; expected at most a fraction of 0.03 of 48")


def spoil(config, tmp_path, rows):
    """Copies of the tiny training list's images, some of them bad."""
    lines = (tmp_path / "train.txt").read_text().splitlines()
    for row in rows:
        (tmp_path / f"bad{row}.png").write_bytes(b"bad")
        lines[row] = f"{tmp_path}/bad{row}.png {lines[row].split()[1]}"
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    return config


def test_a_run_skips_bad_images_and_says_how_many(tiny, tmp_path):
    settings = ["epochs=1", "eval_during_train=false", "DataLoader.Train.bad_images=skip"]
    config = spoil(tiny(*settings, "DataLoader.Train.max_bad_fraction=0.05"), tmp_path, [3, 20])
    row = keras_featx.train(config)
    assert row["skipped"] == 2 and np.isfinite(row["loss"])
    assert len((tmp_path / "run" / "skipped.csv").read_text().splitlines()) == 3
    config = tiny(*settings)
    spoil(config, tmp_path, [3])
    with pytest.raises(RunError, match="max_bad_fraction: 1 images of .* of 0.01 of 48"):
        keras_featx.train(config)


def test_evaluation_counts_what_it_leaves_out(tiny, tmp_path):
    extractor = build_model("emoji-lcnet-x0_5")
    config = tiny("DataLoader.Eval.Query.bad_images=skip", "Arch.image_size=[64, 64]")
    lines = (EMOJI_MINI / "query_list.txt").read_text().splitlines()
    (tmp_path / "bad.png").write_bytes(b"bad")
    lines[7] = f"{tmp_path}/bad.png {lines[7].split()[1]}"
    (tmp_path / "query.txt").write_text("\n".join(lines) + "\n")
    query = imagenet_list(image_root=str(EMOJI_MINI), cls_label_path=str(tmp_path / "query.txt"))
    result = keras_featx.evaluate(config, extractor, query=query)
    assert result["query_skipped"] == 1 and result["queries"] == 199
    assert "gallery_skipped" not in result
    rest = query.take([i for i in range(200) if i != 7])
    expected = keras_featx.evaluate(tiny("Arch.image_size=[64, 64]"), extractor, query=rest)
    assert expected == {k: v for k, v in result.items() if k != "query_skipped"}


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"bad")
    extractor = build_model("emoji-lcnet-x0_5")
    samples = Samples("list", [str(tmp_path / "bad.png")], np.zeros(1, int), [1])
    with pytest.raises(RunError, match="list: expected images that can be decoded, got none"):
        embed_usable(extractor, samples, PreprocessSection())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_bad_fraction=1.0", "max_bad_fraction: expected in [0, 1), got 1.0"),
        ("service=localhost:1", "service: expected grpc://host:port, got 'localhost:1'"),
    ],
)
def test_impossible_settings_are_refused(tiny, override, message):
    with pytest.raises(ConfigError) as error:
        tiny(f"DataLoader.Train.{override}")
    assert str(error.value) == f"DataLoader.Train.{message}"


def test_cameras_take_entries_out_of_a_ranking(tiny):
    """A gallery picture of the query's identity and camera is not searched; others are."""
    extractor = build_model("emoji-lcnet-x0_5")
    config = tiny("Arch.image_size=[64, 64]")
    from keras_featx.evaluation_data import load_eval_samples

    query, gallery = load_eval_samples(config)
    all_one = [dataclasses.replace(s, cameras=np.array(["1"] * len(s))) for s in (query, gallery)]
    all_one[0].cameras[-1] = "2"
    assert keras_featx.evaluate(config, extractor, *all_one)["queries_without_match"] == 199
    all_one[0].cameras[-1] = "1"
    apart = dataclasses.replace(gallery, cameras=np.array(["2"] * len(gallery)))
    found = keras_featx.evaluate(config, extractor, all_one[0], apart)
    assert found == keras_featx.evaluate(config, extractor)
    with pytest.raises(ConfigError, match="DataLoader.Eval.Gallery: expected cameras in both"):
        keras_featx.evaluate(config, extractor, all_one[0], gallery)


# Mixtures


def test_a_batch_is_mixed_after_augmentation(samples):
    """Undone with NumPy from the batch without mixing: shares, partners and labels agree."""
    order = shuffle(samples, 3, batch_size=12)
    plain = batches(samples, order)
    ops = (Component(name="Mixup", args={"alpha": 1.0}),)
    made = pipeline.train_dataset(
        samples, order, ARCH, OPS, seed=3, first_step=0, last_step=4, batch_transform_ops=ops
    )
    mixed_any = 0
    for (inputs, _), (image, label) in zip(made, plain, strict=True):
        found, share = inputs["image"].numpy(), inputs["share"].numpy()
        np.testing.assert_array_equal(inputs["label"], label)
        for i in range(12):
            whole = image[i].astype("float64")
            candidates = [
                np.abs(share[i] * whole + (1 - share[i]) * image[j] - found[i]).max()
                for j in range(12)
                if label[j] == inputs["label_2"][i]
            ]
            assert min(candidates) <= 0.501
            mixed_any += 0.1 < share[i] < 0.9
    assert mixed_any > 10
    resumed = pipeline.train_dataset(
        samples, order, ARCH, OPS, seed=3, first_step=2, last_step=4, batch_transform_ops=ops
    )
    rest = [x["image"].numpy() for x, _ in made.skip(2)]
    for (inputs, _), image in zip(resumed, rest, strict=True):
        np.testing.assert_array_equal(inputs["image"], image)


def test_cross_entropy_of_a_mixture_is_the_mean_of_both_labels(tiny):
    from conftest import randomize

    from keras_featx import models

    extractor = randomize(models.build_extractor(tiny().Arch))
    head = models.build_head(tiny().Arch, 8)
    plain = models.build_classifier(extractor, head)
    mixed = models.build_classifier(extractor, head, mixed=True)
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    label, second = np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])
    share = np.array([1, 0, 0.25, 0.5], "float32")
    found = mixed({"image": image, "label": label, "label_2": second, "share": share})
    own, other = (plain({"image": image, "label": x})["ce_loss"].numpy() for x in (label, second))
    np.testing.assert_allclose(found["ce_loss"], share * own + (1 - share) * other, rtol=1e-5)


def test_a_run_trains_on_mixtures(tiny):
    ways = "[{Mixup: {probability: 0.5}}, {CutMix: {probability: 0.5}}]"
    ops = f"DataLoader.Train.dataset.batch_transform_ops={ways}"
    row = keras_featx.train(tiny("epochs=1", "eval_during_train=false", ops))
    assert np.isfinite(row["loss"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["Loss.Train=[{CELoss: {}}, {TripletLoss: {}}]"],
            "DataLoader.Train.dataset.batch_transform_ops: expected with CELoss alone, as a "
            "mixture has two identities, got it with triplet_loss",
        ),
        (
            [
                "Arch.Head={name: ArcMargin, sample_rate: 0.5}",
                "DataLoader.Train.sampler.batch_size=4",
            ],
            "Arch.Head.sample_rate: expected 1 with batch_transform_ops, as each label would have "
            "a sample of its own, got 0.5",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(tiny, overrides, message):
    ops = "DataLoader.Train.dataset.batch_transform_ops=[{Mixup: {}}]"
    with pytest.raises(ConfigError) as error:
        keras_featx.train(tiny("eval_during_train=false", ops, *overrides))
    assert str(error.value) == message
