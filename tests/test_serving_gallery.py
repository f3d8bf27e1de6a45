"""A gallery on disk, served: searched as NumPy does, changed with a token, whole at any moment."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from conftest import EMOJI_MINI, ROOT
from served import expected, export_folder, serving

import keras_featx
from keras_featx import cli, models
from keras_featx.config import dump_config
from keras_featx.errors import ConfigError, RunError
from keras_featx.exporters import litert, onnx_file, tflite_metadata
from keras_featx.fingerprints import fingerprint
from keras_featx.gallery.collection import Gallery
from keras_featx.serving import galleries
from keras_featx.serving.options import Limits
from keras_featx.weights import shipped_config

ITEMS = "/v1/gallery/items"
TOKEN = "a token of tests".replace(" ", "-") + "-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FOLDERS = sorted((EMOJI_MINI / "test").iterdir())[:12]
# Three pictures of each identity are in the gallery, the others ask.
KEPT = [path for folder in FOLDERS for path in sorted(folder.glob("*.png"))[:3]]
ASKED = [path for folder in FOLDERS for path in sorted(folder.glob("*.png"))[3:]]


def name(path):
    return f"{path.parent.name}/{path.name}"


def b64(path):
    return {"b64": base64.b64encode(path.read_bytes()).decode()}


def posted(*paths, **more):
    items = [{"id": name(p), "identity": p.parent.name, "image": b64(p), **more} for p in paths]
    return {"items": items}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The shipped weights as an export, a gallery of them, and what Keras says of all pictures."""
    folder = tmp_path_factory.mktemp("made")
    config = shipped_config("emoji-lcnet-x0_5")
    model = models.build_model("emoji-lcnet-x0_5")
    whole = fingerprint(model.get_weights(), config.Arch.Preprocess)
    (folder / "export").mkdir()
    (folder / "export" / "config.yaml").write_text(dump_config(config))
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, whole)
    litert.save(model, folder / "export" / "model.tflite", about=about)
    kept, asked = expected(config, model, KEPT), expected(config, model, ASKED)
    gallery = Gallery.create(folder / "shelf", whole, 256)
    gallery.add(
        [name(p) for p in KEPT], [p.parent.name for p in KEPT], kept,
        [{"place": i} for i in range(len(KEPT))],
    )  # fmt: skip
    (folder / "token").write_text(f"{TOKEN}\n")
    return folder, kept, asked, whole


@pytest.fixture
def shelf(made, tmp_path):
    """A copy of the gallery, which may be changed."""
    return shutil.copytree(made[0] / "shelf", tmp_path / "shelf")


@pytest.fixture
def served(made, shelf):
    with serving(
        made[0] / "export", gallery=shelf, gallery_token_file=made[0] / "token"
    ) as running:
        yield running


@pytest.fixture
def client(served):
    return keras_featx.Client(served.url, token=TOKEN)


def nearest(query, kept, k):
    """Rows of the nearest and cosines, of vectors as the gallery keeps them."""
    cosines = query.astype("float64") @ kept.astype("float16").astype("float64").T
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosines, rows, 1)


def ids_of(found):
    return [[one["id"] for one in row] for row in found]


def get(served, path):
    status, _, text = served.call("GET", path)
    return status, json.loads(text)


def refused(served, method, path, body=None, headers=BEARER):
    status, _, text = served.call(method, path, body, headers)
    answer = json.loads(text)
    assert list(answer) == ["error"]
    return status, answer["error"]


def test_a_search_equals_numpy(made, client):
    _, kept, asked, _ = made
    found = client.search(ASKED, k=5)
    rows, cosines = nearest(asked, kept, 5)
    assert ids_of(found) == [[name(KEPT[row]) for row in some] for some in rows.tolist()]
    np.testing.assert_allclose(
        [[one["similarity"] for one in row] for row in found], cosines, atol=1e-5
    )
    for some, near in zip(rows.tolist(), found, strict=True):
        for row, one in zip(some, near, strict=True):
            assert list(one) == ["id", "identity", "similarity", "metadata"]
            assert one["identity"] == KEPT[row].parent.name and one["metadata"] == {"place": row}
    assert len(client.search(ASKED[0], k=1000)[0]) == len(KEPT)


def test_a_threshold_says_who_is_unknown(made, served, client, shelf):
    status, answer = served.post("/v1/search", {"instances": [b64(ASKED[0])]})
    assert status == 200 and list(answer) == ["results"]
    sentence = f"^{served.url}: its gallery has neither a rule nor a threshold$"
    with pytest.raises(RunError, match=sentence):
        client.identify(ASKED[0])
    rows, cosines = nearest(made[2], made[1], 1)
    threshold = float(np.median(cosines))
    Gallery(shelf).set(threshold=threshold)
    wanted = [
        KEPT[row].parent.name if value >= threshold else None
        for row, value in zip(rows[:, 0].tolist(), cosines[:, 0].tolist(), strict=True)
    ]
    assert 0 < wanted.count(None) < len(wanted)
    found = client.identify(ASKED)
    assert [one["identity"] for one in found] == wanted
    np.testing.assert_allclose([one["similarity"] for one in found], cosines[:, 0], atol=1e-5)
    for one in found:
        assert one["why"].startswith(f"below the threshold {threshold:g}: ") != bool(
            one["identity"]
        )
    assert client.gallery()["threshold"] == threshold


def test_a_rule_looks_at_its_own_neighbours(made, client, shelf):
    """Whatever number of neighbours is asked for."""
    _, kept, asked, _ = made
    kept = kept.astype("float16").astype("float64")
    rows, cosines = nearest(asked, kept, 6)
    names = np.array([path.parent.name for path in KEPT])
    Gallery(shelf).set(rule={"combine": "vote", "k": 6})
    for near, one in zip(names[rows].tolist(), client.identify(ASKED), strict=True):
        votes = sorted(set(near), key=lambda name, near=near: (-near.count(name), near.index(name)))
        assert one["identity"] == votes[0]
    means = np.stack([kept[names == name].sum(axis=0) for name in sorted(set(names))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = asked.astype("float64") @ means.T
    order = np.sort(scores, axis=1)[:, ::-1]
    margin = float(np.median(order[:, 0] - order[:, 1]))
    Gallery(shelf).set(rule={"combine": "mean", "margin": margin})
    found = client.identify(ASKED)
    believed = order[:, 0] - order[:, 1] >= margin
    best = np.array(sorted(set(names)))[scores.argmax(axis=1)]
    wanted = [name if sure else None for name, sure in zip(best, believed, strict=True)]
    assert [one["identity"] for one in found] == wanted
    np.testing.assert_allclose([one["similarity"] for one in found], order[:, 0], atol=1e-5)
    assert [len(near) for near in client.search(ASKED, k=2)] == [2] * len(ASKED)


def test_a_gallery_without_items(made, tmp_path):
    Gallery.create(tmp_path / "empty", made[3], 256, settings={"threshold": 0.5})
    with serving(made[0] / "export", gallery=tmp_path / "empty") as running:
        client = keras_featx.Client(running.url)
        assert client.search(ASKED[:2]) == [[], []]
        assert client.identify(ASKED[0]) == [
            {"identity": None, "similarity": None, "why": "nothing is known"}
        ]
        assert client.gallery()["items"] == client.gallery()["identities"] == 0


def test_an_impossible_rule(made, served, client, shelf, caplog):
    Gallery(shelf).set(rule={"margin": 0.1}, threshold=0.9)
    assert client.identify(KEPT[0])[0]["identity"] == KEPT[0].parent.name
    Gallery(shelf).set(rule={"margn": 0.1})
    assert client.identify(KEPT[0])[0]["identity"] == KEPT[0].parent.name
    sentence = f"{shelf}: rule: expected threshold, margin, k, combine, n, thresholds, got 'margn'"
    assert f"{sentence}; did you mean 'margin'?; version 3 goes on" in caplog.text
    with pytest.raises(ConfigError) as error:
        serving(made[0] / "export", gallery=shelf).__enter__()
    assert str(error.value).startswith(sentence)


def test_what_is_in_it(made, served, client):
    assert client.gallery() == {
        "items": 36, "identities": 12, "version": 2, "fingerprint": made[3],
        "precision": "float16", "size": 256, "threshold": None, "writable": True,
    }  # fmt: skip
    one = name(KEPT[4])
    assert get(served, f"{ITEMS}/{quote(one, safe='')}") == (
        200, {"id": one, "identity": KEPT[4].parent.name, "metadata": {"place": 4}},
    )  # fmt: skip
    assert get(served, f"{ITEMS}/{one}")[1]["id"] == one  # a slash may stay one
    assert get(served, f"{ITEMS}/none") == (404, {"error": "The gallery: 'none' is not there"})


def test_what_is_added_is_found_and_what_is_removed_is_not(made, served, client, shelf):
    new = ASKED[:3]
    metadata = [{"shelf": "north", "price": 1.5, "ä": None}] * 3
    assert client.add([name(p) for p in new], [p.parent.name for p in new], new, metadata) == 3
    for path, near in zip(new, client.search(new, k=2), strict=True):
        assert near[0]["id"] == name(path) and near[0]["metadata"] == metadata[0]
        assert near[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert client.gallery()["items"] == 39 and client.gallery()["version"] == 3
    vectors = Gallery(shelf).get([name(p) for p in new]).vectors
    np.testing.assert_allclose(vectors, made[2][:3], atol=1e-3)
    assert client.remove([name(new[0]), name(new[1])]) == 2
    found = {one for row in ids_of(client.search(new, k=100)) for one in row}
    assert name(new[2]) in found and not {name(new[0]), name(new[1])} & found
    assert client.gallery()["items"] == 37 and client.gallery()["version"] == 5
    with pytest.raises(RunError, match=f"404: The gallery: '{name(new[0])}' is not there$"):
        client.remove([name(new[0])])
    text = served.call("GET", "/metrics")[2].decode().splitlines()
    for line in (
        "featx_gallery_items 37.0",
        'featx_gallery_changes_total{kind="add"} 1.0',
        'featx_gallery_changes_total{kind="remove"} 2.0',
        'featx_requests_total{code="404",route="gallery_item"} 1.0',
    ):
        assert line in text


def test_items_are_replaced_only_where_it_is_said(served, client):
    body = posted(KEPT[0], ASKED[0])
    assert refused(served, "POST", ITEMS, body) == (
        409, f"The gallery: '{name(KEPT[0])}' is already there",
    )  # fmt: skip
    assert client.gallery()["version"] == 2  # of a refused change nothing is done
    for item in body["items"]:
        item["identity"] = "other"
    for version, (method, more) in enumerate([("POST", {"replace": True}), ("PUT", {})], 3):
        status, _, text = served.call(method, ITEMS, {**body, **more}, BEARER)
        assert (status, json.loads(text)) == (
            200, {"changed": 2, "version": version, "items": 37},
        )  # fmt: skip
    one = f"{ITEMS}/{quote(name(KEPT[0]), safe='')}"
    assert get(served, one)[1] == {"id": name(KEPT[0]), "identity": "other", "metadata": {}}
    assert client.add(["new"], ["thing"], [KEPT[0].read_bytes()], replace=True) == 1
    with pytest.raises(RunError, match="409: The gallery: 'new' is already there$"):
        client.add(["new"], ["thing"], [KEPT[0]])


def test_ids_are_any_text(served, client):
    ids = ["a/b c", "../../etc/passwd", "..", "?x=1#y", "100%25", "ключ 🔑", "a\n\x00b", "+"]
    client.add(ids, ["thing"] * len(ids), [KEPT[0]] * len(ids))
    for one in ids:
        assert get(served, f"{ITEMS}/{quote(one, safe='')}")[1]["id"] == one
    assert client.remove(ids) == len(ids)
    assert refused(served, "GET", f"{ITEMS}/%FF") == (
        400, "%FF: expected an id in UTF-8, percent-encoded",
    )  # fmt: skip


def test_much_goes_in_several_requests(client, monkeypatch):
    client.batch_size = 4
    new = ASKED[:10]
    assert client.add([name(p) for p in new], ["x"] * 10, new, [{"i": i} for i in range(10)]) == 10
    assert client.gallery()["version"] == 2 + 3
    assert [row[0]["metadata"] for row in client.search(new, k=1)] == [{"i": i} for i in range(10)]


def test_who_may_change_it(made, shelf, served):
    body = posted(ASKED[0])
    challenge = 'Bearer realm="gallery"'
    for headers, sentence, told in (
        ({}, "Changes need the header Authorization: Bearer TOKEN", challenge),
        ({"Authorization": f"Basic {TOKEN}"}, "Changes need the header Authorization: Bearer "
         "TOKEN", challenge),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, "The token is another than the server's",
         f'{challenge}, error="invalid_token"'),
        ({"Authorization": f"Bearer {TOKEN}x"}, "The token is another than the server's",
         f'{challenge}, error="invalid_token"'),
        ({"Authorization": "Bearer \xe4"}, "The token is another than the server's",
         f'{challenge}, error="invalid_token"'),
    ):  # fmt: skip
        for method, path in (("POST", ITEMS), ("PUT", ITEMS), ("DELETE", f"{ITEMS}/none")):
            status, answered, text = served.call(method, path, body, headers)
            assert (status, json.loads(text)["error"]) == (401, sentence)
            assert answered["www-authenticate"] == told
    # Whatever its size, nothing of a body is read for one who may not.
    status, _, _ = served.call("POST", ITEMS, bytes(2**24), {"Authorization": "Bearer no"})
    assert status == 401 and served.service.bodies.held == 0
    with pytest.raises(RunError, match="401: The token is another than the server's$"):
        keras_featx.Client(served.url, token="another").add(["a"], ["b"], [ASKED[0]])
    with pytest.raises(RunError, match="401: Changes need the header"):
        keras_featx.Client(served.url).remove(["a"])
    status, _, text = served.call(
        "POST", ITEMS, body, {"authorization": f"bearer  {TOKEN}"}
    )  # the scheme's case does not count
    assert (status, json.loads(text)["changed"]) == (200, 1)
    assert Gallery(shelf).version == 3
    with serving(made[0] / "export", gallery=shelf) as reading:
        assert get(reading, "/v1/gallery")[1]["writable"] is False
        for headers in ({}, BEARER):
            assert refused(reading, "POST", ITEMS, body, headers) == (
                403, "The gallery is read only: start with --gallery-token-file FILE to change it",
            )  # fmt: skip


def test_without_a_gallery_on_disk(made, tmp_path, caplog):
    with serving(made[0] / "export") as none:
        for method, path in (("GET", "/v1/gallery"), ("GET", f"{ITEMS}/a"), ("POST", ITEMS)):
            assert refused(none, method, path) == (
                404, "No gallery is served: start with --gallery FOLDER or FILE.npz",
            )  # fmt: skip
    file = tmp_path / "shelf.npz"
    np.savez(file, paths=np.array(["a", "b"]), features=made[1][:2])
    with serving(made[0] / "export", gallery=file) as running:
        assert get(running, "/v1/gallery")[1] == {
            "items": 2, "identities": None, "version": None, "fingerprint": None,
            "precision": "float32", "size": 256, "threshold": None,
            "writable": False,
        }  # fmt: skip
        status, answer = running.post("/v1/search", {"instances": [b64(KEPT[0])], "k": 1})
        assert status == 200 and list(answer) == ["results"]
        assert [list(one) for one in answer["results"][0]] == [["path", "similarity"]]
        for method, path in (("GET", f"{ITEMS}/a"), ("POST", ITEMS), ("DELETE", f"{ITEMS}/a")):
            assert refused(running, method, path) == (
                404, "The gallery is a file without ids: start with --gallery FOLDER",
            )  # fmt: skip
        assert "featx_gallery_items 2.0" in running.call("GET", "/metrics")[2].decode()
    for whole in (made[3], "ab" * 32):
        arrays = {"paths": np.array(["a", "b"]), "features": made[1][:2]}
        np.savez(file, **arrays, fingerprint=np.array(whole))
        with serving(made[0] / "export", gallery=file) as running:
            assert get(running, "/v1/gallery")[1]["fingerprint"] == whole
        warning = f"{file}: embeddings of the model {whole}, served is {made[3]}"
        assert (warning in caplog.text) == (whole != made[3])


IMAGE = {"b64": base64.b64encode(KEPT[0].read_bytes()).decode()}
GOOD = {"id": "a", "identity": "b", "image": IMAGE}


@pytest.mark.parametrize(
    "body, sentence",
    [
        (b"", "JSON Parse error: The document is empty"),
        ([], "JSON Value: [] Is not object"),
        ({}, "items: expected a list of objects, got nothing"),
        ({"items": []}, "items: expected a list of objects, got []"),
        ({"items": [GOOD], "path": "/etc"}, "path: expected one of items, replace"),
        ({"items": [GOOD], "replace": 1}, "replace: expected true or false, got 1"),
        ({"items": [GOOD, 3]}, "items[1]: expected an object, got 3"),
        ({"items": [{**GOOD, "path": "/etc"}]}, "items[0].path: expected one of id, identity, "
         "image, metadata"),
        ({"items": [{"identity": "b", "image": IMAGE}]}, "items[0].id: expected a text, got "
         "nothing"),
        ({"items": [{**GOOD, "id": ""}]}, 'items[0].id: expected a text, got ""'),
        ({"items": [{**GOOD, "id": 7}]}, "items[0].id: expected a text, got 7"),
        ({"items": [{**GOOD, "id": "\ud800"}]}, "items[0].id: expected Unicode, got half of a "
         "surrogate pair"),
        ({"items": [GOOD, GOOD]}, 'items[1].id: expected each once, got "a" of items[0] again'),
        ({"items": [{**GOOD, "identity": None}]}, "items[0].identity: expected a text, got "
         "nothing"),
        ({"items": [{**GOOD, "image": "/etc/passwd"}]}, 'items[0].image: expected {"b64": "..."}, '
         'got "/etc/passwd"'),
        ({"items": [{**GOOD, "image": {"b64": "ä"}}]}, "items[0].image: Unable to base64 decode"),
        ({"items": [{**GOOD, "image": {"b64": "QUJD"}}]}, "Unknown image file format. One of JPEG, "
         "JPEG XL, PNG, GIF, BMP, WebP required.\n\t [[image 0]]"),
        ({"items": [{**GOOD, "metadata": [1]}]}, "items[0].metadata: expected an object, got [1]"),
        ({"items": [{**GOOD, "metadata": {"x": float("nan")}}]}, "items[0].metadata: expected "
         "numbers that JSON has, got NaN or infinity"),
        ({"items": [{**GOOD, "metadata": {"x": "\udfff"}}]}, "items[0].metadata: expected Unicode, "
         "got half of a surrogate pair"),
        ({"items": [{**GOOD, "metadata": {"path": "/etc/passwd"}}]}, "items[0].metadata.path: "
         "expected another name: the gallery has path of its own"),
    ],
)  # fmt: skip
def test_a_wrong_body_gets_a_sentence(everlasting, body, sentence):
    served, shelf = everlasting
    assert refused(served, "POST", ITEMS, body) == (400, sentence)
    assert Gallery(shelf).version == 2


@pytest.fixture(scope="module")
def everlasting(made, tmp_path_factory):
    """One for tests that change nothing."""
    shelf = shutil.copytree(made[0] / "shelf", tmp_path_factory.mktemp("everlasting") / "shelf")
    limits = Limits(body=2**20, images=4, pixels=10_000)
    token = made[0] / "token"
    with serving(made[0] / "export", limits, gallery=shelf, gallery_token_file=token) as running:
        yield running, shelf


def test_limits_hold_for_changes_too(everlasting, data_dir):
    served, shelf = everlasting
    items = [{**GOOD, "id": str(i)} for i in range(5)]
    assert refused(served, "POST", ITEMS, {"items": items}) == (
        413, "Expected at most 4 images in a request, got 5",
    )  # fmt: skip
    assert refused(served, "POST", ITEMS, bytes(2**20 + 1)) == (
        413, "Expected a body of at most 1048576 bytes, got 1048577",
    )  # fmt: skip
    assert refused(served, "PUT", ITEMS, {"items": [GOOD], "replace": False}) == (
        400, "replace: a PUT replaces: expected true or nothing, got false",
    )  # fmt: skip
    large = {**GOOD, "image": b64(data_dir / "img_photo.jpg")}
    status, sentence = refused(served, "POST", ITEMS, {"items": [GOOD, {**large, "id": "c"}]})
    assert status == 413 and re.fullmatch(
        r"Expected an image of at most 10000 pixels, got \d+ by its header\n\t \[\[image 1\]\]",
        sentence,
    )
    deep = b'{"items": [{"metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}]}"
    assert refused(served, "POST", ITEMS, deep)[0] == 400
    assert refused(served, "POST", "/v1/search", {"instances": [IMAGE], "k": 1001}) == (
        400, "k: expected at most 1000, got 1001",
    )  # fmt: skip
    assert refused(served, "PATCH", ITEMS, {}) == (400, f"Malformed request: PATCH {ITEMS}")
    assert refused(served, "DELETE", ITEMS) == (400, f"Malformed request: DELETE {ITEMS}")
    assert Gallery(shelf).version == 2


def test_a_change_of_another_process_is_seen(served, client, shelf, monkeypatch):
    """Of this one, but by the files, as another process would make it."""
    other = Gallery(shelf)
    vector, folder = other.get([name(KEPT[0])]).vectors, shelf / "versions"

    def change(turn, date=None):
        other.put(["theirs"], [f"turn {turn}"], vector)
        if date is not None:
            os.utime(folder, ns=(date, date))
        near = {one["id"]: one["identity"] for one in client.search(KEPT[0], k=5)[0]}
        assert near["theirs"] == f"turn {turn}"

    for turn in range(5):
        change(turn)
    with monkeypatch.context() as patch:  # a clock so coarse that changes have one date
        patch.setattr(galleries, "_TICK", 10**15)
        date = time.time_ns()
        for turn in range(5, 10):
            change(turn, date)
    time.sleep(0.2)  # by now the server trusts the folder's date
    assert client.gallery()["version"] == 12
    other.remove(["theirs"])
    other.prune(keep=1)
    assert "theirs" not in ids_of(client.search(KEPT[0], k=100))[0]
    assert client.gallery()["version"] == 13


def test_one_made_anew_in_its_place_is_seen(made, served, client, shelf):
    time.sleep(0.2)
    client.search(KEPT[0])
    anew = Gallery.create(shelf, made[3], 256, overwrite=True)
    anew.add(["only"], ["one"], made[1][:1])
    assert anew.version == 2  # as the one before it
    assert ids_of(client.search(KEPT[0], k=5)) == [["only"]]
    assert client.add(["more"], ["one"], [KEPT[1]]) == 1
    assert len(Gallery(shelf)) == 2


def test_another_model_in_its_place_is_not_mixed_in(made, served, client, shelf, caplog):
    before = client.search(ASKED[:2], k=3)
    Gallery.create(shelf, "cd" * 32, 256, overwrite=True).add(["x"], ["y"], made[1][:1])
    assert client.search(ASKED[:2], k=3) == before
    assert client.search(ASKED[:2], k=3) == before
    sentence = f"expected embeddings of the model {'cd' * 32}, got those of {made[3]}"
    assert caplog.text.count(sentence) == 1 and "version 2 goes on" in caplog.text
    assert refused(served, "POST", ITEMS, posted(ASKED[0])) == (409, f"The gallery: {sentence}")
    assert refused(served, "DELETE", f"{ITEMS}/x") == (409, f"The gallery: {sentence}")
    assert len(Gallery(shelf)) == 1


def test_a_damaged_version_does_not_stop_searches(served, client, shelf, caplog):
    before = client.search(ASKED[:2], k=3)
    (shelf / "versions" / "00000003.json").write_text("{}\n")
    assert client.search(ASKED[:2], k=3) == before
    assert "00000003.json: damaged: its checksum is another; version 2 goes on" in caplog.text
    status, sentence = refused(served, "POST", ITEMS, posted(ASKED[0]))
    assert status == 500 and sentence.startswith("Internal error: RunError: ")
    (shelf / "versions" / "00000003.json").unlink()
    assert client.add(["a"], ["b"], [ASKED[0]]) == 1


def test_another_writer_is_waited_for_by_the_client(served, client, shelf):
    code = (
        "import sys\nfrom keras_featx.gallery.versions import Store\n"
        "with Store(sys.argv[1]).writing():\n    print('locked', flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, shelf],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "locked\n"
        for method, path, body in (
            ("POST", ITEMS, posted(ASKED[0])),
            ("DELETE", f"{ITEMS}/{quote(name(KEPT[0]), safe='')}", None),
        ):
            status, headers, text = served.call(method, path, body, BEARER)
            assert status == 503 and headers["retry-after"] == "1"
            assert re.fullmatch(
                f"The gallery: process {holder.pid}, since [-0-9T:Z]+, is changing it; try again "
                "later",
                json.loads(text)["error"],
            )
        assert len(client.search(ASKED[0], k=100)[0]) == 36  # reading goes on
        assert client.gallery()["version"] == 2
        holder.communicate("")
    finally:
        holder.kill()
        holder.wait()
    assert client.add(["a"], ["b"], [ASKED[0]]) == 1


OTHER = """
import sys, time
from keras_featx.errors import RunError
from keras_featx.gallery.collection import Gallery
gallery, pair = Gallery(sys.argv[1]), sys.argv[2:]
vectors = gallery.get(pair).vectors
turn = 0
while turn < 12:
    try:
        gallery.put(pair, [f"their turn {turn}"] * 2, vectors)
        turn += 1
        gallery.prune(keep=1)
    except RunError:  # the server is changing it
        pass
    time.sleep(0.03)
"""


def test_searches_during_changes_see_whole_ones(made, served, client, shelf):
    """Each change gives two items one new identity; whoever sees two of them saw half a change."""
    ours, theirs = [name(KEPT[0]), name(KEPT[17])], [name(KEPT[5]), name(KEPT[30])]
    client.add(ours, ["start"] * 2, [KEPT[0], KEPT[17]], replace=True)
    client.add(theirs, ["start"] * 2, [KEPT[5], KEPT[30]], replace=True)
    other = subprocess.Popen([sys.executable, "-c", OTHER, shelf, *theirs], cwd=ROOT)

    def search(worker):
        own, seen = keras_featx.Client(served.url), []
        while other.poll() is None:
            near = own.search(KEPT[worker], k=1000)[0]
            found = {one["id"]: one["identity"] for one in near}
            assert len(near) == len(found) == 36
            seen.append([(found[first], found[second]) for first, second in (ours, theirs)])
        return seen

    with ThreadPoolExecutor(2) as pool:
        searches = [pool.submit(search, worker) for worker in range(2)]
        turn = 0
        while other.poll() is None:
            body = posted(KEPT[0], KEPT[17])
            for item in body["items"]:
                item["identity"] = f"our turn {turn}"
            status, _, _ = served.call("PUT", ITEMS, body, BEARER)
            assert status in (200, 503)
            turn += status == 200
        seen = [pairs for task in searches for pairs in task.result()]
    assert other.returncode == 0
    for pairs in zip(*seen, strict=True):
        assert all(first == second for first, second in pairs)
        assert len(set(pairs)) > 1


def test_changes_of_many_clients_are_all_made(served, client, shelf):
    def add(worker):
        own = keras_featx.Client(served.url, token=TOKEN)
        return [own.add([f"{worker}-{i}"], ["x"], [KEPT[worker]]) for i in range(3)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(add, range(8))) == [[1] * 3] * 8
    assert client.gallery()["items"] == 60 and client.gallery()["version"] == 26
    assert Gallery(shelf).check() == []


def test_a_change_that_takes_long(made, shelf, monkeypatch):
    gate, add = threading.Event(), Gallery.add
    monkeypatch.setattr(Gallery, "add", lambda *given: gate.wait(30) and add(*given))
    with serving(
        made[0] / "export", Limits(timeout=2), gallery=shelf,
        gallery_token_file=made[0] / "token",
    ) as served, ThreadPoolExecutor(2) as pool:  # fmt: skip
        running = [pool.submit(refused, served, "POST", ITEMS, posted(p)) for p in ASKED[:2]]
        assert len(keras_featx.Client(served.url).search(ASKED[0])[0]) == 5
        sentence = "No answer within 2 s; the change may still be made"
        assert [task.result() for task in running] == [(504, sentence)] * 2
        assert served.service.changes.waiting == 0
        gate.set()
    # The one that ran was made, the one that waited was not.
    assert len(Gallery(shelf)) == 37


def run_serve(made, *arguments):
    return cli.main(["serve", str(made[0] / "export"), "--port", "0", *map(str, arguments)])


def test_what_a_server_does_not_start_with(made, shelf, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    Gallery.create(foreign, "cd" * 32, 256)
    short, wrong, long = (tmp_path / one for one in ("short", "wrong", "long"))
    short.write_text("fifteen-letters\n")
    wrong.write_text("two words of it all\n")
    long.write_text("0123456789abcdef")
    export = made[0] / "export"
    for arguments, message in (
        (["--gallery", foreign], f"{foreign}: expected embeddings of the model {'cd' * 32}, got "
         f"those of {made[3]}"),
        (["--gallery", export], f"{export}: expected a gallery"),
        (["--gallery", tmp_path / "none"], f"{tmp_path}/none: expected a gallery"),
        (["--gallery-token-file", long], "--gallery-token-file: expected --gallery with the folder "
         "of one, got nothing"),
        (["--gallery", "x.npz", "--gallery-token-file", long], "--gallery-token-file: expected "
         "--gallery with the folder of one, got 'x.npz'"),
        (["--gallery", shelf, "--gallery-token-file", tmp_path / "none"], "--gallery-token-file "
         f"{tmp_path}/none: cannot be read: No such file or directory"),
        (["--gallery", shelf, "--gallery-token-file", short], f"--gallery-token-file {short}: "
         "expected a token of at least 16 characters, got 15"),
        (["--gallery", shelf, "--gallery-token-file", wrong], f"--gallery-token-file {wrong}: "
         "expected one word of ASCII, without blanks"),
    ):  # fmt: skip
        assert run_serve(made, *arguments) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"error: {message}\n")


def test_an_onnx_file_has_its_fingerprint_in_the_card(made, shelf, tmp_path):
    config = shipped_config("emoji-lcnet-x0_5")
    onnx_file.save(models.build_model("emoji-lcnet-x0_5"), tmp_path / "model.onnx")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    for whole, fits in ((made[3], True), ("ab" * 32, False)):
        (tmp_path / "card.json").write_text(json.dumps({"fingerprint": whole}))
        if fits:
            with serving(tmp_path, gallery=shelf) as running:
                near = keras_featx.Client(running.url).search(KEPT[0], k=1)[0][0]
            assert near["id"] == name(KEPT[0]) and near["similarity"] > 0.999
        else:
            with pytest.raises(ConfigError, match=f"{made[3]}, got those of {whole}$"):
                serving(tmp_path, gallery=shelf).__enter__()


def test_of_versions_the_newest_has_the_gallery(made, shelf, tmp_path):
    folder = tmp_path / "versions"
    config, _ = export_folder(folder / "3")
    shutil.copytree(made[0] / "export", folder / "12")
    with serving(folder, gallery=shelf) as running:
        assert len(keras_featx.Client(running.url).search(ASKED[0])[0]) == 5
    (folder / "12").rename(folder / "2")
    with pytest.raises(ConfigError, match="expected a .tflite of keras-featx export, with keras_f"):
        serving(folder, gallery=shelf).__enter__()  # it says nothing of itself
    model = folder / "3" / "model.tflite"
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, "ab" * 32)
    model.write_bytes(tflite_metadata.add(model.read_bytes(), about))
    with pytest.raises(ConfigError, match=f"of the model {made[3]}, got those of {'ab' * 32}$"):
        serving(folder, gallery=shelf).__enter__()


def test_a_process_that_is_killed_keeps_what_it_answered(made, shelf):
    """A whole server as a process of its own, from its line in the log to the next one."""
    arguments = ["--gallery", shelf, "--gallery-token-file", made[0] / "token", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_featx.cli", "serve", made[0] / "export", "--port", "0",
         *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        for line in process.stderr:
            if found := re.search(r"serving embedder at (http://\S+): .*; (\S+: .*)", line):
                break
        url, rest = found.groups()
        assert rest == f"{shelf}: 36 items, changed by requests with the token"
        theirs = keras_featx.Client(url, token=TOKEN, timeout=30)
        theirs.add([name(ASKED[0])], ["new"], [ASKED[0]], [{"kept": True}])
        theirs.remove([name(KEPT[0])])
    finally:
        process.kill()
        process.wait()
    assert TOKEN not in line
    with serving(made[0] / "export", gallery=shelf) as running:
        client = keras_featx.Client(running.url)
        near = client.search(ASKED[0], k=1)[0][0]
        assert (near["id"], near["metadata"]) == (name(ASKED[0]), {"kept": True})
        assert name(KEPT[0]) not in ids_of(client.search(KEPT[0], k=100))[0]
        assert client.gallery()["items"] == 36 and client.gallery()["version"] == 4
    assert Gallery(shelf).check() == []


def test_what_the_client_refuses(client):
    for arguments, message in (
        ((["a"], ["b"], []), "images: expected one for each of 1 items, got 0"),
        ((["a"], "b", [b""]), "identities: expected one for each of 1 items, got a text"),
        ((["a"], ["b"], b""), "images: expected one for each of 1 items, got a text"),
        ((["a"], ["b"], [b""], []), "metadata: expected one for each of 1 items, got 0"),
        (([], [], []), "images: expected at least one, got none"),
    ):
        with pytest.raises(ConfigError) as error:
            client.add(*arguments)
        assert str(error.value) == message
    with pytest.raises(ConfigError, match="^ids: expected a list of them, got a text$"):
        client.remove("a")
    with pytest.raises(ConfigError, match="^token: expected one word of ASCII, without blanks$"):
        keras_featx.Client(client.url, token="a\r\nHost: b")
