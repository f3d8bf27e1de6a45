"""Exact search against loops in float64, whatever the blocks, the type and where it is computed."""

import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from threadpoolctl import threadpool_info

from keras_featx import search, search_backends
from keras_featx.search import nearest
from keras_featx.search_backends import make_backend

FLOAT_METRICS = ("inner_product", "cosine", "euclidean")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def loops(query, gallery, k, metric):
    """One pair at a time in float64, and a stable sort."""
    if metric == "hamming":
        query, gallery = (np.unpackbits(x, axis=1) for x in (query, gallery))
    found = []
    for q in query.astype("float64"):
        values = []
        for j, g in enumerate(gallery.astype("float64")):
            value = {
                "inner_product": lambda q, g: (q * g).sum(),
                "cosine": lambda q, g: (q * g).sum() / np.sqrt((q * q).sum() * (g * g).sum()),
                "euclidean": lambda q, g: np.sqrt(((q - g) ** 2).sum()),
                "hamming": lambda q, g: (q != g).sum(),
            }[metric](q, g)
            value = np.float32(value)
            near = value if metric in ("euclidean", "hamming") else -value
            values.append((near, j, value))
        found.append(sorted(values)[:k])
    rows = np.array([[j for _, j, _ in one] for one in found])
    return np.array([[v for _, _, v in one] for one in found], "float32"), rows


def random_case(rng, metric):
    """Few small values, so that many are equal to the last bit."""
    size = int(rng.integers(1, 12))
    counts = rng.integers(1, 40, size=2)
    if metric == "hamming":
        return [rng.integers(0, 256, (n, size)).astype("uint8") for n in counts]
    # Halves, so that no vector is zero.
    return [(rng.integers(-2, 3, (n, size)) + 0.5).astype("float32") for n in counts]


@pytest.mark.parametrize("backend", ["numpy", "tensorflow"])
@pytest.mark.parametrize("metric", [*FLOAT_METRICS, "hamming"])
def test_neighbours_equal_loops_on_random_cases(metric, backend):
    rng = np.random.default_rng(0)
    tied = 0
    for _ in range(60 if backend == "numpy" else 10):
        query, gallery = random_case(rng, metric)
        k = int(rng.integers(1, 45))
        blocks = int(rng.integers(1, 45)), int(rng.integers(1, 45))
        values, rows = nearest(query, gallery, k, metric, block_sizes=blocks, backend=backend)
        expected, expected_rows = loops(query, gallery, k, metric)
        assert (values.dtype, rows.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(values, expected)
        tied += (np.diff(values, axis=1) == 0).any()
    assert tied > 5


@pytest.mark.parametrize("metric", FLOAT_METRICS)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6, 1e-19, 1e-22])
def test_real_vectors_give_the_same_bits_whatever_the_blocks(metric, scale):
    """More entries than a first sample, near doubles among them, products with rounding."""
    rng = np.random.default_rng(0)
    query = unit(rng.normal(size=(150, 96))).astype("float32") * np.float32(scale)
    gallery = unit(rng.normal(size=(3000, 96))).astype("float32") * np.float32(scale)
    gallery[1::7] = np.nextafter(gallery[::7][: len(gallery[1::7])], np.float32(9))
    gallery[-500:] = query[rng.integers(0, 150, 500)]
    expected, expected_rows = loops(query[:5], gallery, 20, metric)
    answers = [
        nearest(query, gallery, 20, metric, block_sizes=blocks, backend=backend)
        for blocks, backend in [
            (search.BLOCKS, "numpy"),
            ((150, 170), "numpy"),
            ((37, 1100), "tensorflow"),
        ]
    ]
    for values, rows in answers:
        np.testing.assert_array_equal(rows, answers[0][1])
        np.testing.assert_array_equal(values, answers[0][0])
    np.testing.assert_array_equal(answers[0][1][:5], expected_rows)
    np.testing.assert_allclose(answers[0][0][:5], expected, rtol=2e-7)


@pytest.mark.parametrize("metric", ["inner_product", "euclidean"])
def test_large_parts_that_cancel_do_not_hide_the_neighbours(metric):
    """Far from the origin a float32 product has no digit left for what tells them apart."""
    rng = np.random.default_rng(0)
    far = rng.normal(size=(1, 32)) * 1e4
    query, gallery = (far + 0.01 * rng.normal(size=(n, 32)) for n in (7, 400))
    values, rows = nearest(query, gallery, 5, metric, block_sizes=(3, 64), backend="numpy")
    expected, expected_rows = loops(query, gallery, 5, metric)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_one_long_vector_does_not_blur_the_others(metric):
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 32)) for n in (20, 4000))
    gallery[7] *= 1e5
    gallery[3000] *= 1e-5
    values, rows = nearest(query, gallery, 6, metric, block_sizes=(9, 500), backend="numpy")
    expected, expected_rows = loops(query, gallery, 6, metric)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(values, expected)


def test_few_pairs_need_exact_values(monkeypatch):
    """Those that float32 cannot tell from the k-th nearest, and the k nearest themselves."""
    seen = []
    real = search.pair_values
    monkeypatch.setattr(
        search, "pair_values", lambda *given: seen.append(len(given[-1])) or real(*given)
    )
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 64)).astype("float32") for n in (200, 20_000))
    nearest(query, gallery, 5, block_sizes=(100, 2000), backend="numpy")
    assert 200 * 5 <= sum(seen) < 200 * 5.5


def blas_threads():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


@pytest.mark.parametrize(("queries", "blas"), [(40, 1), (8, 2), (7, None)])
def test_threads_share_the_cores_with_blas(monkeypatch, queries, blas):
    """Of four cores: four blocks of queries and more leave one core to each, two blocks two."""
    for module in (search, search_backends):
        monkeypatch.setattr(module, "cores", lambda: 4)
    asked = []
    real = search_backends.threadpool_limits
    monkeypatch.setattr(
        search_backends, "threadpool_limits", lambda *given: asked.append(given) or real(*given)
    )
    before = blas_threads()
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 8)).astype("float32") for n in (queries, 50))
    _, rows = nearest(query, gallery, 3, block_sizes=(7, 20), backend="numpy")
    assert asked == ([] if blas is None else [(min([blas, *before]), "blas")])
    assert blas_threads() == before
    np.testing.assert_array_equal(rows, loops(query, gallery, 3, "inner_product")[1])


def tensor_float():
    return tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize(
    ("backend", "setting", "during"),
    [
        ("numpy", lambda: set(blas_threads()), {1}),
        ("tensorflow", tensor_float, False),
    ],
)
def test_searches_that_overlap_leave_settings_as_they_were(backend, setting, during):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    before = setting()
    first, second = (make_backend(backend).scope(64) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the first to come is the first to go
    assert setting() == during
    second.__exit__(None, None, None)
    assert setting() == before


def test_memory_beside_the_inputs_is_that_of_blocks():
    """All scores would be 40 MB, all values in float64 more."""
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 8)).astype("float32") for n in (500, 20_000))
    tracemalloc.start()
    nearest(query, gallery, 3, block_sizes=(50, 500), backend="numpy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


@pytest.mark.parametrize("count", [5, 1003, 20_000])
def test_equal_entries_come_in_the_order_of_their_rows(count):
    """The same image many times, more than there is room for candidates."""
    rng = np.random.default_rng(0)
    query = unit(rng.normal(size=(3, 16))).astype("float32")
    gallery = np.repeat(unit(rng.normal(size=(1, 16))).astype("float32"), count, axis=0)
    k = min(count, 1500)
    _, rows = nearest(query, gallery, k, backend="numpy")
    np.testing.assert_array_equal(rows, np.tile(np.arange(k), (3, 1)))


def test_files_and_half_precision_are_read_block_by_block(tmp_path):
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 24)).astype("float16") for n in (9, 500))
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    values, rows = nearest(query, mapped, 6, block_sizes=(4, 100), backend="numpy")
    expected, expected_rows = loops(query, gallery, 6, "inner_product")
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(values, expected)


def test_no_queries_have_no_neighbours():
    similarities, rows = nearest(np.empty((0, 4)), np.ones((3, 4)), k=2)
    assert similarities.shape == rows.shape == (0, 2)
    assert np.issubdtype(rows.dtype, np.integer)


BROKEN = np.ones((4, 3))
BROKEN[2, 1] = np.nan
ZERO = np.eye(3)
ZERO[1] = 0


@pytest.mark.parametrize(
    ("query", "gallery", "arguments", "message"),
    [
        (
            np.ones((2, 3)), np.ones((2, 4)), {},
            "query and gallery: expected (rows, size) arrays of one size, got (2, 3) and (2, 4)",
        ),
        (
            np.ones(3), np.ones((2, 3)), {},
            "query and gallery: expected (rows, size) arrays of one size, got (3,) and (2, 3)",
        ),
        (
            np.ones((2, 3)), np.ones((2, 3, 1)), {},
            "query and gallery: expected (rows, size) arrays of one size, got (2, 3) and (2, 3, 1)",
        ),
        (np.ones((2, 3)), np.ones((2, 3)), {"k": 0}, "k: expected at least 1, got 0"),
        (np.ones((2, 3)), np.ones((2, 3)), {"k": -2}, "k: expected at least 1, got -2"),
        (np.ones((2, 3)), np.ones((0, 3)), {}, "gallery: expected at least one row, got none"),
        (
            BROKEN, np.ones((2, 3)), {},
            "query: expected finite values, got a norm of nan in row 2 (1 such rows)",
        ),
        (
            np.ones((2, 3)), np.full((1, 3), 1e20), {},
            "gallery: expected norms below 1e18, got a norm of 1.73205e+20 in row 0 (1 such rows)",
        ),
        (
            np.ones((2, 3)), np.full((2, 3), np.inf), {},
            "gallery: expected finite values, got a norm of inf in row 0 (2 such rows)",
        ),
        (
            np.ones((2, 3)), ZERO, {"metric": "cosine"},
            "gallery: expected no zero vector, got a norm of 0 in row 1 (1 such rows)",
        ),
        (
            np.ones((2, 3)), np.ones((2, 3)), {"metric": "l2"},
            "metric: expected one of ['cosine', 'inner_product', 'euclidean', 'hamming'], got 'l2'",
        ),
        (
            np.ones((2, 3)), np.ones((2, 3)), {"metric": "hamming"},
            "query: expected uint8, packed bits, for hamming, got float64",
        ),
        (
            np.ones((2, 3), "uint8"), np.ones((2, 3), "uint8"), {},
            "query: expected floats for inner_product, got uint8",
        ),
        (
            np.ones((2, 3)), np.ones((2, 3)), {"block_sizes": (0, 5)},
            "block_sizes: expected at least 1, got (0, 5)",
        ),
        (
            np.ones((2, 3)), np.ones((2, 3)), {"backend": "cuda"},
            "backend: expected 'numpy' or 'tensorflow', got 'cuda'",
        ),
    ],
)  # fmt: skip
def test_impossible_searches_are_refused(query, gallery, arguments, message):
    with pytest.raises(ValueError) as error:
        nearest(query, gallery, **{"k": 1, **arguments})
    assert str(error.value) == message


def test_norms_that_are_known_change_nothing():
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(5, 8)), rng.normal(size=(3000, 8))
    known = np.linalg.norm(gallery, axis=1)
    for one, other in zip(
        nearest(query, gallery, 4), nearest(query, gallery, 4, gallery_norms=known), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError) as caught:
        nearest(query, gallery, 4, gallery_norms=known[1:])
    assert str(caught.value) == "gallery_norms: expected 3000, one a row, got 2999"
