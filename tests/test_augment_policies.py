"""RandAugment, AutoAugment and AugMix against Pillow's operations and NumPy's draws."""

import itertools

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from PIL import ImageEnhance, ImageOps
from scipy.stats import chisquare, ks_2samp
from test_augment import DRAWS, PATH, seeds

from keras_featx import augment
from keras_featx.augment import policies
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

PHOTO = np.random.default_rng(3).normal(120, 40, (20, 24, 3)).clip(0, 255).astype("uint8")


def applied(function, image, number, first=5):
    """The image under each of many seeds: uint8 ``(number, height, width, 3)``."""
    image = tf.constant(image)
    draw = tf.function(
        lambda s: tf.map_fn(lambda seed: function(image, seed), s, fn_output_signature=tf.uint8)
    )
    return draw(seeds(number, first)).numpy()


def shifted(matrix):
    return lambda image, fill: image.transform(
        image.size, PIL.Image.Transform.AFFINE, matrix, fillcolor=(fill,) * 3
    )


def pillow(name, strength, image, fill):
    """The operation of a name at a strength in [-1, 1], by Pillow; ranges of arXiv:1805.09501."""
    s = np.float32(strength)
    factor = float(np.float32(1) + np.float32(0.9) * s)
    slant = float(np.float32(0.3) * s)
    width, height = image.size
    brighter = round(110 * abs(float(s)))
    return {
        "Identity": lambda: image,
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Rotate": lambda: image.rotate(float(np.float32(30) * s), fillcolor=(fill,) * 3),
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(4 * abs(float(s)))),
        "Solarize": lambda: ImageOps.solarize(image, 256 - round(256 * abs(float(s)))),
        "SolarizeAdd": lambda: image.point([i + brighter * (i < 128) for i in range(256)] * 3),
        "Color": lambda: ImageEnhance.Color(image).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "ShearX": lambda: shifted((1, slant, 0, 0, 1, 0))(image, fill),
        "ShearY": lambda: shifted((1, 0, 0, slant, 1, 0))(image, fill),
        "TranslateX": lambda: shifted((1, 0, round(150 / 331 * width * float(s)), 0, 1, 0))(
            image, fill
        ),
        "TranslateY": lambda: shifted((1, 0, 0, 0, 1, round(150 / 331 * height * float(s))))(
            image, fill
        ),
    }[name]()


def chain(picture, steps, fill):
    image = PIL.Image.fromarray(picture)
    for name, strength in steps:
        image = pillow(name, strength, image, fill)
    return np.asarray(image).tobytes()


def check_frequencies(ours, expected):
    """Images come with the probabilities of ``{bytes: probability}``, to one in a million."""
    counts = dict.fromkeys(expected, 0)
    for one in ours:
        assert one.tobytes() in counts, "an image that no draw gives"
        counts[one.tobytes()] += 1
    probabilities = np.array(list(expected.values()))
    assert probabilities.sum() == pytest.approx(1)
    found = np.array(list(counts.values()))
    assert chisquare(found, probabilities * len(ours)).pvalue > 1e-6


@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_strengths_are_fractions_of_the_ranges(name):
    operation = tf.function(
        lambda image, strength: policies.OPERATIONS[name](image, strength, 77),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.float32)],
    )
    image = PIL.Image.fromarray(PHOTO)
    for strength in (-1, -0.7, -0.3, 0, 0.111111, 0.25, 0.5, 0.9, 1):
        expected = np.asarray(pillow(name, strength, image, 77))
        np.testing.assert_array_equal(operation(PHOTO, strength), expected, err_msg=strength)


PAPER = (
    "Identity AutoContrast Equalize Rotate Solarize Color Posterize Contrast Brightness Sharpness "
    "ShearX ShearY TranslateX TranslateY"
).split()


def both_signs(names, strength, steps, fill):
    """``{bytes: probability}`` of chains of drawn operations."""
    choices = list(itertools.product(names, (-strength, strength)))
    expected = {}
    for drawn in itertools.product(choices, repeat=steps):
        key = chain(PHOTO, drawn, fill)
        expected[key] = expected.get(key, 0) + 1 / len(choices) ** steps
    return expected


def test_rand_augment_draws_each_operation_of_the_paper_as_often():
    ours = applied(augment.rand_augment(num_ops=1), PHOTO, 3000)
    expected = both_signs(PAPER, 0.9, 1, 128)
    assert len(expected) == 4 + 1 + 9 * 2  # no sign for five; Posterize and Solarize have none
    check_frequencies(ours, expected)


def test_rand_augment_draws_its_steps_independently():
    names = ("Invert", "Rotate", "SolarizeAdd")
    function = augment.rand_augment(num_ops=2, magnitude=5.0, operations=names, fill=9)
    check_frequencies(applied(function, PHOTO, 3000), both_signs(names, 0.5, 2, 9))


def test_rand_augment_of_magnitude_zero_moves_nothing():
    names = ("Rotate", "Color", "Posterize", "Solarize", "ShearX", "TranslateY", "Identity")
    function = augment.rand_augment(num_ops=3, magnitude=0.0, operations=names)
    ours = applied(function, PHOTO, 50)
    np.testing.assert_array_equal(ours, np.broadcast_to(PHOTO, ours.shape))


# Table 9 of arXiv:1805.09501: operation, probability in tenths, magnitude, twice.
IMAGENET = """
Posterize 4 8 Rotate 6 9        Solarize 6 5 AutoContrast 6 5   Equalize 8 8 Equalize 6 3
Posterize 6 7 Posterize 6 6     Equalize 4 7 Solarize 2 4       Equalize 4 4 Rotate 8 8
Solarize 6 3 Equalize 6 7       Posterize 8 5 Equalize 10 2     Rotate 2 3 Solarize 6 8
Equalize 6 8 Posterize 4 6      Rotate 8 8 Color 4 0            Rotate 4 9 Equalize 6 2
Equalize 0 7 Equalize 8 8       Invert 6 4 Equalize 10 8        Color 6 4 Contrast 10 8
Rotate 8 8 Color 10 2           Color 8 8 Solarize 8 7          Sharpness 4 7 Invert 6 8
ShearX 6 5 Equalize 10 9        Color 4 0 Equalize 6 3          Equalize 4 7 Solarize 2 4
Solarize 6 5 AutoContrast 6 5   Invert 6 4 Equalize 10 8        Color 6 4 Contrast 10 8
Equalize 8 8 Equalize 6 3
"""


def outcomes(name, probability, magnitude):
    """What one step of a pair can be: (probability, name, strength)."""
    yield 1 - probability, "Identity", 0.0
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        yield probability, name, 2 * magnitude / 9 - 1
    else:
        for sign in (-1, 1):
            yield probability / 2, name, sign * magnitude / 9


def pairs_of_the_paper():
    """Both steps of each pair: name, probability, magnitude."""
    words = IMAGENET.split()
    steps = zip(words[::3], map(int, words[1::3]), map(int, words[2::3]), strict=True)
    steps = [(name, tenths / 10, magnitude) for name, tenths, magnitude in steps]
    return tuple(zip(steps[::2], steps[1::2], strict=True))


def test_the_pairs_are_those_of_the_paper():
    assert len(pairs_of_the_paper()) == 25
    assert policies.IMAGENET_POLICY == pairs_of_the_paper()


def test_auto_augment_draws_pairs_and_their_steps_with_their_probabilities():
    expected = {}
    for steps in pairs_of_the_paper():
        drawn = itertools.product(*(list(outcomes(*step)) for step in steps))
        for (p, *first), (q, *second) in drawn:
            if p * q > 0:
                key = chain(PHOTO, (first, second), 128)
                expected[key] = expected.get(key, 0) + p * q / 25
    check_frequencies(applied(augment.auto_augment(), PHOTO, 6000), expected)


def test_only_the_operation_drawn_is_computed(monkeypatch):
    def failing(image, strength, fill):
        with tf.control_dependencies([tf.debugging.Assert(False, ["computed"])]):
            return tf.identity(image)

    monkeypatch.setitem(policies.OPERATIONS, "Equalize", failing)
    function = tf.function(
        augment.rand_augment(num_ops=1, operations=("Invert", "Equalize")), autograph=False
    )
    failed = 0
    for seed in seeds(40):
        try:
            np.testing.assert_array_equal(function(PHOTO, seed), 255 - PHOTO)
        except tf.errors.InvalidArgumentError:
            failed += 1
    assert 5 < failed < 35


def simulated_mixes(rng, number, alpha, width, depth, value):
    """Of a flat image of ``value``, with Invert or Identity as operations, by NumPy."""
    found = []
    for _ in range(number):
        shares, together = rng.dirichlet([alpha] * width), rng.beta(alpha, alpha)
        mix = 0.0
        for share in shares:
            steps = rng.integers(1, 4) if depth == -1 else depth
            inverted = rng.integers(0, 2, steps).sum() % 2
            mix += share * (255 - value if inverted else value)
        found.append(np.rint((1 - together) * value + together * mix))
    return np.array(found)


@pytest.mark.parametrize(("alpha", "width", "depth"), [(1.0, 3, -1), (0.3, 2, 2), (4.0, 4, 1)])
def test_mixes_are_distributed_as_dirichlet_and_beta_say(alpha, width, depth):
    function = augment.aug_mix(
        width=width, depth=depth, alpha=alpha, operations=("Invert", "Identity")
    )
    flat = np.full((1, 1, 3), 20, "uint8")
    ours = applied(function, flat, 4000)[:, 0, 0, 0]
    reference = simulated_mixes(np.random.default_rng(0), DRAWS, alpha, width, depth, 20)
    assert ks_2samp(ours, reference).pvalue > 1e-6


def test_depths_are_one_two_or_three():
    """With a tiny alpha, the mix is the image or its version; inverted twice, both are the same."""
    function = augment.aug_mix(width=1, alpha=1e-3, operations=("Invert",))
    ours = applied(function, np.zeros((1, 1, 3), "uint8"), 4000)[:, 0, 0, 0]
    assert np.isin(ours, (0, 255)).mean() > 0.98
    assert (ours == 255).mean() == pytest.approx(1 / 3, abs=0.03)  # a half, of two thirds


def test_the_strength_of_a_mix_is_uniform_up_to_the_severity():
    """Brightness of a grey image; all of the mix is its one version where alpha is tiny."""
    function = augment.aug_mix(
        width=1, depth=1, alpha=1e-3, severity=5.0, operations=("Brightness",)
    )
    ours = applied(function, np.full((1, 1, 3), 100, "uint8"), 4000)[:, 0, 0, 0].astype("float64")
    changed = ours[np.abs(ours - 100) > 1]
    assert len(changed) / 4000 == pytest.approx(0.5, abs=0.04)
    rng = np.random.default_rng(0)
    strength = rng.uniform(0.1, 5, DRAWS) / 10 * rng.choice([-1, 1], DRAWS)
    reference = np.floor(100 * (1 + 0.9 * strength))
    assert ks_2samp(changed, reference[np.abs(reference - 100) > 1]).pvalue > 1e-6


def test_mixing_happens_with_its_probability():
    function = augment.aug_mix(probability=0.3, operations=("Invert",), depth=1)
    ours = applied(function, np.zeros((2, 2, 3), "uint8"), 4000)
    assert (ours > 0).any(axis=(1, 2, 3)).mean() == pytest.approx(0.3, abs=0.04)


POLICIES = {
    "RandAugment": augment.rand_augment,
    "AutoAugment": augment.auto_augment,
    "AugMix": augment.aug_mix,
}


@pytest.mark.parametrize("build", POLICIES.values(), ids=POLICIES)
def test_policies_run_on_images_of_any_size_in_a_dataset(build):
    """And give there, several at a time, what they give alone."""
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (*size, 3), dtype="uint8")
        for size in ((1, 1), (5, 3), (40, 30), (17, 64))
    ] * 6
    function = build()
    data = tf.data.Dataset.from_generator(
        lambda: zip(pictures, seeds(24), strict=True),
        output_signature=(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int64)),
    )
    found = list(data.map(function, num_parallel_calls=2).as_numpy_iterator())
    for picture, one in zip(pictures, found, strict=True):
        assert one.dtype == np.uint8 and one.shape == picture.shape
    for i in (1, 6, 7, 23):
        np.testing.assert_array_equal(found[i], function(tf.constant(pictures[i]), seeds(24)[i]))
    assert sum(not np.array_equal(*pair) for pair in zip(found, pictures, strict=True)) > 10
    assert len({one.tobytes() for one in found[2::4]}) >= 3


@pytest.mark.parametrize("build", POLICIES.values(), ids=POLICIES)
def test_policies_round_what_came_as_floats(build):
    """After operations that leave fractions and values beyond the range."""
    floats = np.random.default_rng(0).uniform(-40, 300, (9, 9, 3)).astype("float32")
    whole = np.rint(floats).clip(0, 255).astype("uint8")
    function = build()
    for seed in seeds(3):
        np.testing.assert_array_equal(function(tf.constant(floats), seed), function(whole, seed))


KNOWN = ["Identity", *policies.OPERATIONS]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RandAugment", {"num_ops": 0}, "num_ops: expected at least 1, got 0"),
        ("RandAugment", {"magnitude": -1.0}, "magnitude: expected in [0, 10], got -1.0"),
        ("RandAugment", {"magnitude": 10.5}, "magnitude: expected in [0, 10], got 10.5"),
        (
            "RandAugment",
            {"operations": ("Rotate", "Cutout")},
            f"operations: expected some of {KNOWN}, got 'Cutout'",
        ),
        ("RandAugment", {"operations": ()}, f"operations: expected some of {KNOWN}, got none"),
        ("RandAugment", {"fill": 256}, "fill: expected in [0, 255], got 256"),
        ("AutoAugment", {"fill": -1}, "fill: expected in [0, 255], got -1"),
        ("AugMix", {"probability": 1.1}, "probability: expected in [0, 1], got 1.1"),
        ("AugMix", {"severity": 0.0}, "severity: expected in [0.1, 10], got 0.0"),
        ("AugMix", {"width": 0}, "width: expected at least 1, got 0"),
        ("AugMix", {"depth": 0}, "depth: expected -1 or at least 1, got 0"),
        ("AugMix", {"depth": -2}, "depth: expected -1 or at least 1, got -2"),
        ("AugMix", {"alpha": 0.0}, "alpha: expected above 0, got 0.0"),
        (
            "AugMix",
            {"operations": ("rotate",)},
            f"operations: expected some of {KNOWN}, got 'rotate'",
        ),
    ],
)
def test_impossible_arguments_are_refused_with_their_key(name, arguments, message):
    with pytest.raises(ValueError) as error:
        POLICIES[name](**arguments)
    assert str(error.value) == message
    with pytest.raises(ConfigError) as config_error:
        augment.build_augmentations((Component(name=name, args=arguments),), PATH)
    assert str(config_error.value) == f"{PATH}.0.{message}"
