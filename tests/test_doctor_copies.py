"""Copies found by their pixels, votes on labels, spreads: beside plain loops and Pillow."""

import numpy as np
import planted
import pytest
from PIL import Image

from keras_featx.doctor import alignment, duplicates
from keras_featx.doctor.labels import spread
from keras_featx.doctor.wrong_labels import vote

RNG = np.random.default_rng(0)
STYLES = ("noto", "twemoji")


def small(image, side=alignment.SIDE):
    """What the doctor looks at, by Pillow."""
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


@pytest.fixture(scope="module")
def drawings():
    return [planted.picture(name, style) for name in planted.IDENTITIES for style in STYLES]


def photo(image):
    """A drawing as large as a photograph, so that 2 % are some pixels."""
    return image.resize((200, 200), Image.Resampling.BICUBIC)


def stored(image):
    return Image.open(planted.io.BytesIO(planted.encoded(image, "JPEG", quality=50))).convert("RGB")


CHANGES = {
    "quality 50": stored,
    "80 %": lambda image: image.resize((160, 160), Image.Resampling.LANCZOS),
    "brighter by 5": lambda image: Image.fromarray(
        np.minimum(np.asarray(image).astype(int) + 5, 255).astype(np.uint8)
    ),
    "2 % off the left": lambda image: image.crop((4, 0, 200, 200)),
    "2 % off each side": lambda image: image.crop((4, 4, 196, 196)),
    "2 % off, smaller, quality 50": lambda image: stored(
        image.crop((4, 2, 200, 200)).resize((150, 150))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_found(drawings, name):
    """Among 160 drawings and a changed copy of each: nearly all copies, and hardly anything else.

    What is found is judged by which drawing a picture was made from, not by pixels. Drawings of
    one thing by two designers are left out of the account: some are all but equal.
    """
    images = [photo(d) for d in drawings] + [CHANGES[name](photo(d)) for d in drawings]
    pictures = np.stack([small(image, 8) for image in images])
    found = duplicates.alike(pictures, lambda i: small(images[i]))
    count = len(drawings)
    same = found.group[:count] == found.group[count:]
    assert same.mean() >= 0.97
    thing = np.tile(np.repeat(np.arange(count // 2), 2), 2)
    pairs = found.group[:, None] == found.group
    assert not (pairs & (thing[:, None] != thing)).any()


def test_pictures_of_other_things_are_far_apart(drawings):
    pictures = np.stack([small(d) for d in drawings[::2]]).astype(np.float32)
    i, j = np.triu_indices(len(pictures), 1)
    values = [
        alignment.differences(pictures[i[a : a + 64]], pictures[j[a : a + 64]])
        for a in range(0, len(i), 64)
    ]
    assert np.concatenate(values).min() > 3 * alignment.MOST_DIFFERENCE


def test_a_small_thing_that_differs_counts():
    """Two plates of which one has a bean: the mean over all pixels would not see it."""
    plate = np.full((1, 32, 32, 3), 230.0)
    plate[:, 4:28, 4:28] = 180
    bean = plate.copy()
    bean[:, 14:18, 14:17] = (90, 40, 30)
    assert alignment.differences(plate, bean)[0] > 3 * alignment.MOST_DIFFERENCE
    noise = RNG.normal(0, 2, plate.shape)
    assert alignment.differences(plate, plate + noise)[0] < 1


def test_plain_pictures_match_by_colour_only():
    plain = np.stack([np.full((8, 8, 3), v) for v in (250, 251, 120, 20, 122)]).astype(np.uint8)
    found = duplicates.alike(plain, lambda i: np.repeat(np.repeat(plain[i], 4, 0), 4, 1))
    _, group = np.unique(found.group, return_inverse=True)
    assert group.tolist() == [0, 0, 1, 2, 1]


@pytest.mark.parametrize("count", [2, 50, 2500])
def test_candidates_are_those_of_all_pairs(count):
    """Beside all pairs in float64; more pictures than a block holds, some in one cluster."""
    base = RNG.integers(0, 256, (max(count // 8, 2), 8, 8, 3))
    noise = RNG.integers(-25, 26, (count, 8, 8, 3)) * RNG.integers(0, 2, (count, 1, 1, 1))
    picked = base[RNG.integers(0, len(base), count)] + noise
    pictures = np.clip(picked, 0, 255).astype(np.uint8)
    x = pictures.astype(float) - pictures.mean(axis=(1, 2), keepdims=True)
    x = x.reshape(count, -1)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 4 * 192**0.5)
    distance = ((x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T).clip(0)
    mean = pictures.mean(axis=(1, 2))
    shift = np.abs(mean[:, None] - mean).max(axis=-1)
    near = np.triu((distance < 0.2) & (shift < 16), 1)
    border = np.triu((abs(distance - 0.2) < 1e-4) | (abs(shift - 16) < 1e-3), 1)
    found = np.concatenate([np.zeros((0, 2), int), *duplicates.candidates(pictures)])
    got = np.zeros_like(near)
    got[found.min(axis=1), found.max(axis=1)] = True
    assert len(found) == got.sum()  # each pair once
    most = np.bincount(np.argwhere(near)[:, 0], minlength=1).max() if near.any() else 0
    assert most < duplicates._MOST_CANDIDATES or count == 2500
    if most < duplicates._MOST_CANDIDATES:
        assert not ((got ^ near) & ~border).any()
    assert not (got & ~near & ~border).any()


def test_of_many_alike_only_the_nearest_are_looked_at():
    """Two hundred near-copies: not 20,000 pairs, but all of them connected."""
    base = RNG.integers(60, 190, (1, 8, 8, 3))
    pictures = (base + RNG.integers(-3, 4, (200, 8, 8, 3))).astype(np.uint8)
    pairs = np.concatenate(list(duplicates.candidates(pictures)))
    assert len(pairs) <= 16 * 200
    detail = lambda i: np.repeat(np.repeat(pictures[i], 4, 0), 4, 1)  # noqa: E731
    assert len(np.unique(duplicates.alike(pictures, detail).group)) == 1


def votes_of_loops(embeddings, labels, copies):
    """Share of the best other label, by its definition, in float64."""
    x = embeddings - embeddings.mean(axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    share, best = [], []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if copies[j] != copies[i]]
        weight = {j: np.exp((x[i] @ x[j] - 1) / 0.15) for j in others}
        mean = sum(weight.values()) / len(others)
        density = {}
        for label in set(labels.tolist()):
            own = [weight[j] for j in others if labels[j] == label]
            density[label] = (sum(own) + mean) / (len(own) + 1)
        alone = not any(labels[j] == labels[i] for j in others)
        mine = density.pop(labels[i])
        best.append(max(density, key=density.get))
        share.append(np.nan if alone else density[best[-1]] / (density[best[-1]] + mine))
    return np.array(share), np.array(best)


def test_votes_agree_with_their_definition():
    """Labels in no order, an identity with one image, and copies, which have no vote."""
    labels = np.concatenate([RNG.integers(0, 9, 590), np.full(9, 9), [10]])
    centres = RNG.normal(size=(11, 16))
    embeddings = centres[labels] + RNG.normal(size=(600, 16)) * 0.7
    embeddings[5:8] = embeddings[4]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels[:20] = RNG.integers(0, 9, 20)
    copies = np.arange(600)
    copies[5:8] = 4
    order = RNG.permutation(600)
    embeddings, labels, copies = embeddings[order], labels[order], copies[order]
    found = vote(embeddings.astype(np.float32), labels, copies)
    share, best = votes_of_loops(embeddings, labels, copies)
    np.testing.assert_allclose(found.share, share, rtol=2e-3)
    assert (found.label == best)[~np.isnan(share)].mean() > 0.995  # ties apart
    suspects = np.flatnonzero(found.share > 0.8)
    assert len(suspects) >= 10
    for i in suspects:
        shown = found.closest[i][found.closest[i] >= 0]
        assert (labels[shown] == found.label[i]).all() and (copies[shown] != copies[i]).all()


def gini_of_pairs(values):
    """Half the mean difference of all pairs, relative to the mean."""
    return np.abs(values[:, None] - values).mean() / (2 * values.mean())


@pytest.mark.parametrize("values", [[3], [4, 4, 4], [1, 1, 1, 97], RNG.integers(1, 90, 333)])
def test_spread(values):
    values = np.array(values)
    found = spread(values)
    assert found["gini"] == pytest.approx(gini_of_pairs(values), abs=6e-4)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["median"] == np.median(values)
    bars = found["bars"]
    assert len(bars) == min(len(values), 120) and sorted(bars, reverse=True) == bars
    if len(values) <= 120:
        assert bars == sorted(values.tolist(), reverse=True)
