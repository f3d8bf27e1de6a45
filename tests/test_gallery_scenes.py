"""Scenes: what stands where, found by given boxes, detectors and windows; boxes and their files."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import EMOJI_MINI
from PIL import Image

from keras_featx.data import pipeline
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import open_extractor
from keras_featx.gallery import scenes
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.opened import Match
from keras_featx.gallery.regions import check_boxes, read_boxes, suppress, windows
from keras_featx.gallery.scenes import Found, by_threshold, recognise

TEST = EMOJI_MINI / "test"
NAMES = sorted(path.name for path in TEST.iterdir())


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def extractor():
    return open_extractor("emoji-lcnet-x0_5")


@pytest.fixture(scope="module")
def gallery(extractor, tmp_path_factory):
    """One drawing of each of 40 emoji."""
    paths = [str(TEST / name / "noto.png") for name in NAMES]
    folder = tmp_path_factory.mktemp("scenes") / "gallery"
    shelf = Gallery.create(
        folder, extractor.fingerprint, extractor.embedding_size, settings={"threshold": 0.75}
    )
    vectors = np.concatenate(list(extractor.embed(pipeline.as_samples(paths))))
    shelf.add(NAMES, NAMES, vectors, [{"path": path} for path in paths])
    return shelf


def scene_of(places, size=(256, 384), drawing="noto"):
    """Emoji at (left, top) on white ground."""
    canvas = np.full((*size, 3), 255, np.uint8)
    for name, (left, top) in places.items():
        canvas[top : top + 64, left : left + 64] = pixels_of(TEST / name / f"{drawing}.png")
    return canvas


PLACES = {
    "dagger": (96, 64), "bus": (192, 0), "old-key": (160, 160), "milky-way": (64, 192),
    "ping-pong": (320, 192), "globe-with-meridians": (256, 96),
}  # fmt: skip


def box_of(place):
    return place[0], place[1], place[0] + 64, place[1] + 64


def overlap_of(a, b):
    """Intersection over union, in whole numbers."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_what_stands_in_given_boxes_is_named(gallery, extractor, tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(scene_of(PLACES)).save(path)
    boxes = [box_of(place) for place in PLACES.values()]
    for image in (path, str(path), scene_of(PLACES)):
        found = recognise(gallery, extractor, image, boxes, k=3)
        assert {one.identity: one.box for one in found} == dict(zip(PLACES, boxes, strict=True))
        assert all(one.similarity > 0.9999 and len(one.matches) == 3 for one in found)
        values = [one.similarity for one in found]
        assert values == sorted(values, reverse=True)


def test_another_drawing_in_a_scene_is_what_it_is_alone(gallery, extractor):
    names = NAMES[:24]
    places = {name: (64 * (i % 6), 64 * (i // 6)) for i, name in enumerate(names)}
    boxes = [box_of(place) for place in places.values()]
    paths = [str(TEST / name / "twemoji.png") for name in names]
    alone = gallery.search(next(extractor.embed(pipeline.as_samples(paths))), 5)
    found = recognise(
        gallery, extractor, scene_of(places, drawing="twemoji"), boxes,
        decide=by_threshold(-1), overlap=None,
    )  # fmt: skip
    assert len(found) == 24
    by_box = {one.box: one for one in found}
    for box, expected in zip(boxes, alone, strict=True):
        assert [m.id for m in by_box[box].matches] == [m.id for m in expected]
        assert by_box[box].similarity == pytest.approx(expected[0].similarity, abs=1e-5)
    # Most drawings of a thing are nearest to the other drawing of it.
    right = sum(by_box[box].identity == name for name, box in zip(names, boxes, strict=True))
    assert right >= 16


@pytest.mark.parametrize("seed", range(3))
def test_sliding_windows_find_what_stands_anywhere(gallery, extractor, seed):
    rng = np.random.default_rng(seed)
    corners = [
        (106 * c + rng.integers(42), 120 * r + rng.integers(56)) for r in (0, 1) for c in range(3)
    ]
    places = dict(zip(rng.choice(NAMES, 6, replace=False).tolist(), corners, strict=True))

    def slide(image):
        return windows(image.shape[:2], sizes=[64 / 240], stride=0.125)

    found = recognise(
        gallery, extractor, scene_of(places, (240, 320)), detector=slide,
        across=True, unknown=False, overlap=0.1,
    )  # fmt: skip
    assert {one.identity for one in found} == set(places) and len(found) == 6
    for one in found:
        assert overlap_of(one.box, box_of(places[one.identity])) > 0.5


def test_without_boxes_windows_slide(gallery, extractor):
    scene = scene_of(PLACES)
    found = recognise(gallery, extractor, scene, overlap=None)
    assert sorted(one.box for one in found) == sorted(map(tuple, windows((256, 384)).tolist()))
    # The places are among the windows of a quarter of the height.
    named = recognise(gallery, extractor, scene, unknown=False, across=True, overlap=0.1)
    assert {one.identity: one.box for one in named} == {n: box_of(p) for n, p in PLACES.items()}


def test_overlapping_regions_of_one_identity_are_one(gallery, extractor):
    boxes = [box_of(PLACES["dagger"]), (98, 64, 162, 128), (96, 66, 160, 130), (0, 0, 40, 40)]
    given = {"image": scene_of(PLACES), "boxes": boxes}
    every = recognise(gallery, extractor, overlap=None, **given)
    assert [one.identity for one in every] == ["dagger"] * 3 + [None]
    assert [one.box for one in recognise(gallery, extractor, **given)] == [boxes[0], boxes[3]]
    assert [one.box for one in recognise(gallery, extractor, unknown=False, **given)] == boxes[:1]


def test_across_identities_the_better_one_stays(gallery, extractor):
    """Decided as told: overlapping regions of two identities, and of nobody known."""
    boxes = [(96, 64, 160, 128), (98, 64, 162, 128), (96, 66, 160, 130), (200, 100, 240, 140)]
    answers = iter([("ant", 0.5), ("bee", 0.7), (None, 0.9), (None, 0.1)] * 4)

    def decide(matches):
        return scenes.Nearest(*next(answers))

    def look(**more):
        image = np.zeros((256, 384, 3), np.uint8)
        found = recognise(gallery, extractor, image, boxes, decide=decide, **more)
        return [(one.identity, one.box) for one in found]

    bee, ant, hidden, apart = (
        ("bee", boxes[1]), ("ant", boxes[0]), (None, boxes[2]), (None, boxes[3])
    )  # fmt: skip
    assert look() == [bee, ant, hidden, apart]
    assert look(across=True) == [bee, apart]
    assert look(across=True, unknown=False) == [bee]
    assert look(unknown=False) == [bee, ant]


def test_detectors_get_pixels_and_may_give_scores(gallery, extractor):
    scene, seen = scene_of(PLACES), []

    def detector(image):
        seen.append(image)
        return np.array([[95.6, 64, 160, 127.5], [0, 0, 10, 10]]), [0.75, 0.25]

    found = recognise(gallery, extractor, scene, detector=detector)
    np.testing.assert_array_equal(seen[0], scene)
    assert [(one.box, one.identity, one.score) for one in found] == [
        ((95, 64, 160, 128), "dagger", 0.75), ((0, 0, 10, 10), None, 0.25)
    ]  # fmt: skip
    assert recognise(gallery, extractor, scene, detector=lambda image: []) == []
    with pytest.raises(ConfigError, match=r"^image: expected 1 scores, one a box, got \(2,\)$"):
        recognise(gallery, extractor, scene, detector=lambda image: ([[0, 0, 9, 9]], [1, 2]))
    with pytest.raises(ConfigError, match="^image: expected boxes or a detector, got both$"):
        recognise(gallery, extractor, scene, [[0, 0, 9, 9]], detector)


def photo(path, size=(300, 420), **more):
    """A JPEG with edges in it, whose chroma is subsampled."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0] // 6, size[1] // 6, 3), np.uint8)
    Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC).save(path, **more)
    return path


BOXES = np.array([[0, 0, 64, 64], [7, 11, 250, 203], [301, 5, 420, 300], [50, 60, 51, 61]])


@pytest.mark.parametrize("reduced", [False, True])
def test_parts_are_prepared_as_boxes_of_lists_are(tmp_path, extractor, reduced, monkeypatch):
    """The pixels that go into the network, in whatever way boxes are given."""
    path = str(photo(tmp_path / "photo.jpg"))
    preprocess = dataclasses.replace(extractor.preprocess, reduced_decoding=reduced)
    seen = []

    def pixels_for(samples, how):
        given = pipeline.image_dataset(samples, (32, 32), how, 64)
        return np.concatenate(list(given.as_numpy_iterator()))

    def embed(samples):
        seen.append(pixels_for(samples, preprocess))
        yield np.tile(np.eye(4, dtype="float32")[:1], (len(samples), 1))

    made = dataclasses.replace(extractor, preprocess=preprocess, image_size=(32, 32))
    monkeypatch.setattr(type(made), "embed", lambda self, samples: embed(samples))
    shelf = Gallery.create(tmp_path / "shelf", made.fingerprint, 4, settings={"threshold": 0.5})
    assert len(recognise(shelf, made, path, BOXES)) == 4
    rows = np.arange(4)
    listed = Samples("list", [path] * 4, np.zeros(4, np.int64), rows, boxes=BOXES)
    fully = pixels_for(listed, extractor.preprocess)
    np.testing.assert_array_equal(seen[0], pixels_for(listed, preprocess))
    assert np.array_equal(seen[0], fully) != reduced


def test_a_file_is_decoded_once(gallery, extractor, tmp_path, monkeypatch):
    path, calls, decode = photo(tmp_path / "photo.jpg"), [], scenes.images.decode

    def counted(*arguments):
        calls.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr("keras_featx.images.decode", counted)
    assert len(recognise(gallery, extractor, path, np.tile(BOXES, (20, 1)), overlap=None)) == 80
    assert len(calls) == 1


def test_boxes_are_of_the_upright_picture(gallery, extractor, tmp_path):
    """A picture that lies on its side in the file, with a note of it."""
    scene, path = scene_of(PLACES), tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row of the file is the right side of the picture
    Image.fromarray(np.rot90(scene)).save(path, exif=exif)
    (found,) = recognise(gallery, extractor, path, [box_of(PLACES["bus"])])
    assert found.identity == "bus" and found.similarity > 0.9999


def test_an_empty_gallery_knows_nobody(extractor, tmp_path):
    shelf = Gallery.create(
        tmp_path / "empty", extractor.fingerprint, 256, settings={"threshold": 0}
    )
    found = recognise(shelf, extractor, scene_of({}), [[0, 0, 9, 9]])
    assert found == [Found((0, 0, 9, 9), None, None, [])]


def test_what_cannot_be_done_is_said(gallery, extractor, tmp_path):
    box = [[0, 0, 9, 9]]
    with pytest.raises(RunError) as error:
        recognise(gallery, extractor, tmp_path / "none.png", box)
    said = "none.png: expected a decodable image: No such file or directory"
    assert str(error.value) == str(tmp_path / said)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(RunError, match="empty.png: expected a decodable image: the file is empty$"):
        recognise(gallery, extractor, tmp_path / "empty.png", box)
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match="text.png: expected a decodable image: "):
        recognise(gallery, extractor, tmp_path / "text.png", box)
    with pytest.raises(ConfigError, match=r"^overlap: expected a fraction in \[0, 1\], got 1.5$"):
        recognise(gallery, extractor, scene_of({}), box, overlap=1.5)
    with pytest.raises(ConfigError, match="^k: expected at least 1, got 0$"):
        recognise(gallery, extractor, scene_of({}), box, k=0)
    other = Gallery.create(tmp_path / "other", "ab" * 32, 256)
    with pytest.raises(ConfigError, match=f"expected embeddings of the model {'ab' * 32}, got"):
        recognise(other, extractor, scene_of({}), box)
    plain = Gallery.create(tmp_path / "plain", extractor.fingerprint, 256)
    with pytest.raises(ConfigError) as error:
        recognise(plain, extractor, scene_of({}), box)
    assert str(error.value) == (
        f"{tmp_path / 'plain'}: threshold: expected one in the settings of the gallery, or another "
        "way to decide, got none"
    )


def test_a_threshold_is_reached_from_it_on():
    def near(value):
        return [Match("1", "ant", value, {}), Match("2", "bee", value, {})]

    assert by_threshold(0.5)(near(0.5)) == scenes.Nearest("ant", 0.5)
    assert by_threshold(0.5)(near(0.499)) == scenes.Nearest(None, 0.499)
    assert by_threshold(0.5)([]) == scenes.Nearest(None, None)


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([-1, 0, 5, 5], "-1 0 5 5"), ([0, -0.5, 5, 5], "0 -0.5 5 5"), ([0, 0, 11, 5], "0 0 11 5"),
        ([0, 0, 5, 8.25], "0 0 5 8.25"), ([3, 0, 3, 5], "3 0 3 5"), ([0, 5, 5, 4], "0 5 5 4"),
        ([np.nan, 0, 5, 5], "nan 0 5 5"), ([0, 0, np.inf, 5], "0 0 inf 5"),
        ([20, 20, 30, 30], "20 20 30 30"),
    ],
)  # fmt: skip
def test_boxes_that_are_not_inside_are_refused(box, shown):
    with pytest.raises(ConfigError) as error:
        check_boxes([[0, 0, 10, 8], box], (8, 10), "photo.jpg")
    assert str(error.value) == (
        "photo.jpg: boxes[1]: expected 'left top right bottom' with left < right inside the "
        f"picture of 10 x 8 pixels, got {shown!r}"
    )


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3]], r"^x: expected boxes \(n, 4\), got shape \(1, 3\)$"),
        ([1, 2, 3, 4], r"^x: expected boxes \(n, 4\), got shape \(4,\)$"),
        ([["a", 1, 2, 3]], r"^x: expected boxes of 4 numbers, got \[\['a', 1, 2, 3\]\]$"),
        ([[1, 2, 3, 4], [1]], "^x: expected boxes of 4 numbers, got "),
    ],
)
def test_what_is_no_box_is_refused(boxes, message):
    with pytest.raises(ConfigError, match=message):
        check_boxes(boxes, (8, 10), "x")


def test_boxes_are_rounded_outward():
    found = check_boxes([[0.2, 1, 2.01, 3], [0, 0, 10, 8], [9.5, 7.5, 9.6, 7.6]], (8, 10), "x")
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 1, 3, 3], [0, 0, 10, 8], [9, 7, 10, 8]]
    assert check_boxes([], (8, 10), "x").shape == (0, 4)


def test_windows_by_hand():
    # 6 high, 10 wide; sides 6 and 3; shifted by at most half a side.
    whole = [[0, 0, 6, 6], [2, 0, 8, 6], [4, 0, 10, 6]]  # 4 pixels in 2 steps of at most 3
    # 7 pixels in 5 steps of at most 1.5, 3 in 2: rounded to even at the half.
    lefts, tops = [0, 1, 3, 4, 6, 7], [0, 2, 3]
    small = [[left, top, left + 3, top + 3] for top in tops for left in lefts]
    assert windows((6, 10), sizes=[1, 0.5]).tolist() == whole + small
    # Twice as wide as high, of the area of a square with side 20: 14 high, 28 wide.
    found = windows((20, 60), sizes=[1], stride=1, aspects=[2]).tolist()
    assert found == [[left, top, left + 28, top + 14] for top in (0, 6) for left in (0, 16, 32)]
    # 24 high does not fit; what is asked for twice comes once.
    assert windows((20, 20), sizes=[1, 1], aspects=[1, 0.7]).tolist() == [[0, 0, 20, 20]]


@pytest.mark.parametrize("size", [(97, 61), (40, 640), (33, 33)])
@pytest.mark.parametrize("stride", [0.1, 0.5, 1.0])
def test_windows_cover_a_picture(size, stride):
    boxes = windows(size, sizes=[0.3], stride=stride)
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)
    seen = np.zeros(size, bool)
    for left, top, right, bottom in boxes.tolist():
        assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
        seen[top:bottom, left:right] = True
    assert seen.all()
    side = boxes[0, 2] - boxes[0, 0]
    for axis in (0, 1):
        shifts = np.diff(np.unique(boxes[:, axis]))
        assert (shifts <= max(1, np.ceil(stride * side))).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sizes": []}, r"^sizes: expected numbers above 0, got \[\]$"),
        ({"sizes": [0.5, 0]}, r"^sizes: expected numbers above 0, got \[0.5, 0\]$"),
        ({"aspects": [-1]}, r"^aspects: expected numbers above 0, got \[-1\]$"),
        ({"sizes": [float("nan")]}, r"^sizes: expected numbers above 0, got \[nan\]$"),
        ({"stride": 0}, r"^stride: expected a fraction in \(0, 1\], got 0$"),
        ({"stride": 1.5}, r"^stride: expected a fraction in \(0, 1\], got 1.5$"),
        (
            {"sizes": [2]},
            r"^sizes: expected a window that fits into 30 x 20 pixels, got sizes \[2\] with "
            r"aspects \[1.0\]$",
        ),
        ({"sizes": [0.01]}, "^sizes: expected a window that fits into 30 x 20 pixels"),
    ],
)
def test_windows_that_cannot_be(given, message):
    with pytest.raises(ConfigError, match=message):
        windows((20, 30), **given)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_is_that_of_all_pairs(seed, overlap):
    """Against the definition, in whole numbers and float64; small boxes meet it exactly."""
    rng = np.random.default_rng(seed)
    corners, sizes = rng.integers(0, 4, (150, 2)), rng.integers(5, 10, (150, 2))
    boxes = np.concatenate([corners, corners + sizes], 1)
    groups = rng.choice(np.array(["ant", "bee", None], object), 150).tolist()
    kept = []
    for i, group in enumerate(groups):
        rivals = [j for j in kept if group is not None and groups[j] == group]
        if all(overlap_of(boxes[i], boxes[j]) <= overlap for j in rivals):
            kept.append(i)
    assert suppress(boxes, groups, overlap) == kept
    assert (len(kept) == 150) == (overlap == 1)


def test_suppression_of_nothing():
    assert suppress([], [], 0.5) == []
    assert suppress([[0, 0, 5, 5]] * 3, [None] * 3, 0.5) == [0, 1, 2]


CSV = """path,left,top,right,bottom,note
a.jpg,0,1,20,30,x
"b, c.jpg", 1.5 ,2,3,4.25,y
a.jpg,5,5,6,6,z
"""


def test_boxes_of_files(tmp_path):
    expected = {
        "/pictures/a.jpg": [[0, 1, 20, 30], [5, 5, 6, 6]],
        "/pictures/b, c.jpg": [[1, 2, 3, 5]],
    }
    (tmp_path / "sides.csv").write_text(CSV)
    (tmp_path / "box.csv").write_text(
        'box,path\n"0,1,20,30",a.jpg\n1.5 2 3 4.25,"b, c.jpg"\n5 5 6 6,a.jpg\n'
    )
    rows = [
        {"path": "a.jpg", "box": [0, 1, 20, 30], "score": 1},
        {"path": "b, c.jpg", "box": [1.5, 2, 3, 4.25]},
        {"path": "a.jpg", "box": [5, 5, 6, 6]},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    for name in ("sides.csv", "box.csv", "boxes.json"):
        found = read_boxes(tmp_path / name, "/pictures")
        assert {path: boxes.tolist() for path, boxes in found.items()} == expected
        assert all(boxes.dtype == np.int64 for boxes in found.values())
    (tmp_path / "tiny.json").write_text('[{"path": "/a", "box": [1e-7, 0, 1e3, 1E2]}]')
    assert read_boxes(tmp_path / "tiny.json")["/a"].tolist() == [[0, 0, 1000, 100]]


BOX = "expected a box 'left top right bottom' with left < right, got"
OBJECT = 'expected {"path": ..., "box": [left, top, right, bottom]}, got'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.csv", "path,left,top,right\na,1,2,3\n",
         ":1: expected columns left, top, right, bottom, or box, got ['path', 'left', 'top', "
         "'right'] without 'bottom'"),
        ("b.csv", "left,top,right,bottom\n1,2,3,4\n",
         ":1: path_column: expected a column 'path', got ['left', 'top', 'right', 'bottom']"),
        ("b.csv", "path,box\na,1 2 3 4\na,\n", f":3: {BOX} ''"),
        ("b.csv", "path,left,top,right,bottom\na,1,2,3,4\nb,3,2,3,4\n", f":3: {BOX} '3 2 3 4'"),
        ("b.csv", "path,left,top,right,bottom\na,1,2,nan,4\n", f":2: {BOX} '1 2 nan 4'"),
        ("b.csv", "path,left,top,right,bottom\na,-1,2,3,4\n", f":2: {BOX} '-1 2 3 4'"),
        ("b.csv", "path,left,top,right,bottom\n", ": expected rows below the heading, got none"),
        ("b.json", "[{", ": expected JSON: Expecting property name enclosed in double quotes: line "
         "1 column 3 (char 2)"),
        ("b.json", "{}", ': expected [{"path": ..., "box": [...]}, ...]'),
        ("b.json", '[{"path": "a", "box": [1, 2, 3, 4]}, {"path": "a"}]',
         f":2: {OBJECT} {{'path': 'a'}}"),
        ("b.json", '[{"path": "a", "box": [1, 2, 3, true]}]',
         f":1: {OBJECT} {{'path': 'a', 'box': [1, 2, 3, True]}}"),
        ("b.json", '[{"path": "", "box": [1, 2, 3, 4]}]',
         f":1: {OBJECT} {{'path': '', 'box': [1, 2, 3, 4]}}"),
        ("b.json", '[{"path": "a", "box": [1, 2, NaN, 4]}]', f":1: {BOX} '1 2 nan 4'"),
        ("b.json", '[{"path": "a", "box": [1, 2, 1e400, 4]}]', f":1: {BOX} '1 2 inf 4'"),
        ("b.json", '[{"path": "a", "box": [0, 0, 0, 0]}]', f":1: {BOX} '0 0 0 0'"),
        ("b.txt", "", ": expected boxes in .csv or .json"),
    ],
)  # fmt: skip
def test_files_that_are_none_of_boxes(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        read_boxes(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}{message}"


def test_a_file_of_boxes_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="none.csv: expected a file of boxes: No such file"):
        read_boxes(tmp_path / "none.csv")
