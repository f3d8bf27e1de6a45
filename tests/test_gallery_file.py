"""The gallery file of devices: its layout byte by byte, its search, and files that are refused."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import EMOJI_MINI
from served import expected, export_folder

import keras_featx
from keras_featx import cli
from keras_featx.errors import ConfigError, RunError
from keras_featx.exporters import litert, tflite_metadata
from keras_featx.gallery_file import read_gallery, write_gallery
from keras_featx.sections import PreprocessSection

PRINT = "0123456789abcdef" * 4


def unit(items, size, seed=0):
    x = np.random.default_rng(seed).normal(size=(items, size))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


def names(items):
    return [f"thing {i % 7} ü" for i in range(items)]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_the_layout_is_the_documented_one(tmp_path, precision):
    """Read by hand, from what mobile/GALLERY.md says."""
    x = unit(50, 24)
    write_gallery(tmp_path / "a.kfg", x, names(50), PRINT, precision, threshold=0.5)
    data = (tmp_path / "a.kfg").read_bytes()
    assert data[:8] == b"KFXGAL\r\n"
    version, kind, size, identities, items = struct.unpack_from("<IIIIQ", data, 8)
    assert (version, kind, size, identities, items) == (1, precision == "int8", 24, 7, 50)
    assert data[32:64].hex() == PRINT
    threshold, named, body, head = struct.unpack_from("<fIII", data, 64)
    assert threshold == 0.5 and data[80:128] == bytes(48)
    assert body == zlib.crc32(data[128:]) and head == zlib.crc32(data[:76])
    at = 128

    def section(count):
        nonlocal at
        part, end = data[at : at + count], at + count
        at = -(-end // 64) * 64
        assert data[end:at] == bytes(at - end)
        return part

    labels = np.frombuffer(section(4 * 50), "<u4")
    block = section(named)
    ends = np.frombuffer(block[: 4 * 8], "<u4")
    text = [block[32:][a:b].decode() for a, b in zip(ends, ends[1:], strict=False)]
    assert [text[i] for i in labels] == names(50)
    if precision == "int8":
        scales = np.frombuffer(section(4 * 50), "<f4")
        codes = np.frombuffer(section(24 * 50), "i1").reshape(50, 24)
        np.testing.assert_allclose(scales, np.abs(x).max(1) / 127, rtol=1e-6)
        np.testing.assert_allclose(codes * scales[:, None], x, atol=scales.max() / 2 * 1.001)
    vectors = np.frombuffer(section(2 * 24 * 50), "<f2").reshape(50, 24)
    np.testing.assert_array_equal(vectors, x.astype("float16"))
    assert at == len(data)


@pytest.mark.parametrize("k", [1, 5, 300])
def test_the_search_is_that_of_all_products(tmp_path, k):
    x, query = unit(200, 32), unit(9, 32, seed=1)
    write_gallery(tmp_path / "a.kfg", x, names(200), PRINT)
    values, rows = read_gallery(tmp_path / "a.kfg").search(query, k)
    similar = query.astype("float64") @ x.astype("float16").astype("float64").T
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(values, np.take_along_axis(similar, order, 1), atol=1e-6)


def test_codes_choose_the_candidates_and_float16_decides(tmp_path):
    x, query = unit(3000, 32), unit(40, 32, seed=1)
    write_gallery(tmp_path / "a.kfg", x, names(3000), PRINT, "int8")
    values, rows = read_gallery(tmp_path / "a.kfg").search(query, 3)
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    coarse = query.astype("float64") @ (np.rint(x / scale) * scale).astype("float64").T
    exact = query.astype("float64") @ x.astype("float16").astype("float64").T
    for i in range(40):
        some = np.sort(np.argsort(-coarse[i], kind="stable")[:12])
        order = some[np.argsort(-exact[i, some], kind="stable")[:3]]
        np.testing.assert_array_equal(rows[i], order)
        np.testing.assert_allclose(values[i], exact[i, order], atol=1e-6)
    # Rounding to codes alone would have put others in front.
    assert (np.argsort(-coarse, 1)[:, :3] != np.argsort(-exact, 1)[:, :3]).any()


def test_ties_go_to_the_lowest_item(tmp_path):
    x = np.repeat(unit(3, 16), 5, axis=0)
    for precision in ("float16", "int8"):
        write_gallery(tmp_path / "a.kfg", x, names(15), PRINT, precision)
        assert read_gallery(tmp_path / "a.kfg").search(x[5:6], 2)[1].tolist() == [[5, 6]]


def test_an_empty_gallery_finds_nothing(tmp_path):
    for precision in ("float16", "int8"):
        write_gallery(tmp_path / "a.kfg", np.zeros((0, 8)), [], PRINT, precision)
        found = read_gallery(tmp_path / "a.kfg")
        assert found.identities == [] and found.threshold is None
        assert found.search(unit(2, 8))[0].shape == (2, 0)


def test_every_cut_and_every_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "a.kfg"
    write_gallery(path, unit(4, 8), names(4), PRINT, "int8")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a\.kfg: expected"):
            read_gallery(path)
    for place in [*range(80), *range(128, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ConfigError, match=r"a\.kfg: (expected|damaged)"):
            read_gallery(path)


def refusal(path, data=None):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read_gallery(path)
    return str(error.value)


def signed(data):
    """With checksums that are right, as a stranger could make them."""
    data = data[:72] + struct.pack("<I", zlib.crc32(data[128:])) + data[76:]
    return data[:76] + struct.pack("<I", zlib.crc32(data[:76])) + data[80:]


def test_what_is_said_of_files_that_are_refused(tmp_path):
    path = tmp_path / "a.kfg"
    write_gallery(path, unit(4, 8), names(4), PRINT)
    whole = path.read_bytes()
    assert refusal(tmp_path / "b.kfg") == (
        f"{tmp_path / 'b.kfg'}: expected a gallery file: No such file or directory"
    )
    assert refusal(path, b"PK\3\4" + bytes(200)) == (
        f"{path}: expected a gallery file, got another kind of file"
    )
    assert refusal(path, whole[:100]) == f"{path}: expected at least 128 bytes, got 100"
    newer = whole[:8] + b"\2" + whole[9:]
    assert refusal(path, newer) == f"{path}: expected a gallery file of version 1, got 2"
    assert refusal(path, whole[:-1]) == f"{path}: expected {len(whole)} bytes, got {len(whole) - 1}"
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    assert refusal(path, damaged) == f"{path}: damaged: the checksum of its contents is another"
    assert read_gallery(path, check=False).identities == sorted(set(names(4)))
    far = signed(whole[:128] + struct.pack("<I", 4) + whole[132:])
    assert refusal(path, far) == f"{path}: damaged: an item names identity 4"
    at = 192 + 4 * 5
    text = signed(whole[:at] + b"\xff" + whole[at + 1 :])
    assert refusal(path, text) == f"{path}: damaged: the names of its identities"
    huge = signed(whole[:24] + struct.pack("<Q", 2**60) + whole[32:])
    assert "bytes, got" in refusal(path, huge)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a"]}, "embeddings: expected one of (items, size) for each of 1 names, got (2"),
        ({"embeddings": np.eye(2) * 2}, "embeddings: expected norm 1, got 2 in row 0"),
        ({"embeddings": np.full((2, 2), np.nan)}, "embeddings: expected norm 1, got nan in row 0"),
        ({"fingerprint": "abc"}, "fingerprint: expected 64 hexadecimal digits, got 'abc'"),
        ({"precision": "int4"}, "precision: expected one of float16, int8, got 'int4'"),
        ({"threshold": 2.0}, "threshold: expected a cosine, -1 to 1, got 2.0"),
    ],
)
def test_what_cannot_be_written(tmp_path, change, message):
    given = {"embeddings": np.eye(2), "names": ["a", "b"], "fingerprint": PRINT}
    with pytest.raises(ConfigError) as error:
        write_gallery(tmp_path / "a.kfg", **{**given, **change})
    assert str(error.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_query_of_another_size_is_refused(tmp_path):
    write_gallery(tmp_path / "a.kfg", np.eye(4), list("abcd"), PRINT)
    with pytest.raises(ConfigError, match=r"query: expected \(queries, 4\), got \(1, 3\)"):
        read_gallery(tmp_path / "a.kfg").search(np.eye(3)[:1])


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A model of a tiny network, and a gallery packed by the command line."""
    folder = tmp_path_factory.mktemp("packed")
    config, model = export_folder(folder)
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, PRINT)
    litert.save(model, folder / "model.tflite", about=about)
    (folder / "card.json").write_text(json.dumps({"threshold": {"cosine": 0.25}}))
    return folder, config, model


def pack(folder, *more, dataset=None):
    dataset = dataset or f"{{name: ClassFolders, image_root: {EMOJI_MINI / 'test'}}}"
    output = str(folder / "a.kfg")
    return cli.main(
        ["gallery", "pack", str(folder / "model.tflite"), "--dataset", dataset, "--output", output]
        + list(more)
    )


def test_a_packed_gallery_holds_what_keras_gives(packed, capsys):
    folder, config, model = packed
    assert pack(folder) == 0
    said = json.loads(capsys.readouterr().out)
    found = read_gallery(folder / "a.kfg")
    assert said == {
        "gallery": str(folder / "a.kfg"),
        "items": 240,
        "identities": 40,
        "bytes": (folder / "a.kfg").stat().st_size,
        "threshold": 0.25,
    }
    assert found.fingerprint == PRINT and found.threshold == 0.25
    paths = sorted((EMOJI_MINI / "test").glob("*/*.png"))
    assert sorted(found.identities) == sorted({path.parent.name for path in paths})
    for identity in ("ant", "basketball"):
        own = [path for path in paths if path.parent.name == identity]
        rows = found.labels == found.identities.index(identity)
        np.testing.assert_allclose(found.vectors[rows], expected(config, model, own), atol=2e-3)
    assert pack(folder, "--threshold", "0.5", "--precision", "int8") == 0
    assert read_gallery(folder / "a.kfg").threshold == 0.5


def test_what_cannot_be_packed(packed, tmp_path, capsys):
    folder = packed[0]
    assert pack(folder, dataset="nothing") == 2
    assert pack(folder, dataset="{name: Nothing}") == 2
    assert pack(tmp_path) == 2
    (tmp_path / "model.tflite").write_bytes(b"no model")
    assert pack(tmp_path) == 2
    (tmp_path / "pictures" / "one").mkdir(parents=True)
    (tmp_path / "pictures" / "one" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    assert pack(folder, dataset=f"{{name: ClassFolders, image_root: {tmp_path / 'pictures'}}}") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert lines[0] == "error: --dataset: expected {name: ..., ...}, got 'nothing'"
    assert "Nothing" in lines[1]
    path = tmp_path / "model.tflite"
    assert lines[2] == f"error: {path}: expected a .tflite file: No such file or directory"
    assert lines[3] == (
        f"error: {path}: expected a .tflite of keras-featx export, with keras_featx.json in it"
    )
    assert "a.png" in lines[4] and len(lines) == 5


def test_a_model_without_facts_is_refused(packed, tmp_path):
    folder, config, model = packed
    litert.save(model, tmp_path / "model.tflite")
    with pytest.raises(ConfigError, match="with keras_featx.json in it"):
        keras_featx.pack_gallery(tmp_path / "model.tflite", {"name": "x"}, tmp_path / "a.kfg")


def test_an_unreadable_picture_is_named(packed, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    with pytest.raises(RunError, match=r"a\.png"):
        keras_featx.pack_gallery(
            Path(packed[0], "model.tflite"),
            {"name": "ClassFolders", "image_root": str(tmp_path)},
            tmp_path / "a.kfg",
        )
    assert not (tmp_path / "a.kfg").exists()


def test_fingerprints_tell_models_and_preprocessing_apart():
    from keras_featx.fingerprints import fingerprint, rounded

    one = [np.ones((2, 3), "float32"), np.zeros(3, "float32")]
    first = fingerprint(one, PreprocessSection())
    assert len(bytes.fromhex(first)) == 32 and first == fingerprint(one, PreprocessSection())
    others = [
        fingerprint([one[0].reshape(3, 2), one[1]], PreprocessSection()),
        fingerprint([one[0], one[1] + 1e-6], PreprocessSection()),
        fingerprint(one, PreprocessSection(resize="pad")),
        fingerprint(one, PreprocessSection(), (one[1], one[0])),
        rounded(first, "tflite_int8"),
        rounded(first, "tflite_dynamic"),
    ]
    assert len({first, *others}) == 7
