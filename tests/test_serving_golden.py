"""Answers agree with those recorded from TensorFlow Serving's own REST handler.

What is adapted, as the model here is another one:

- The second signature is called embed_images and takes uint8, not embed_tensor with float32.
- Images have 32 pixels a side, not 224, and embeddings 16 numbers, not 512; the numbers differ.
- In place of the names of a graph's nodes an error names the image, and a tensor by its input.
"""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from served import expected, export_folder, serving

RECORDED = json.loads((Path(__file__).parent / "data" / "tfserving_rest.json").read_text())
PAIRS = {pair["name"]: pair for pair in RECORDED}
IMAGE = base64.urlsafe_b64decode(PAIRS["urlsafe_b64"]["request"]["instances"][0]["b64"])
NUMBER = re.compile(r"-?\d+\.?\d*(e-?\d+)?")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    config, model = export_folder(folder / "export")
    (folder / "q.jpg").write_bytes(IMAGE)
    with serving(folder / "export") as served:
        yield served, expected(config, model, [folder / "q.jpg"])[0]


def adapted_request(request):
    if request is None or isinstance(request, str):
        return None if request is None else request.encode()
    text = json.dumps(request).replace("<q.jpg>", base64.b64encode(IMAGE).decode())
    return text.replace("embed_tensor", "embed_images").encode()


def adapted_answer(pair):
    text = pair["response"]
    if pair["name"] == "metadata":
        image = text.index('"embed_tensor_image:0"')
        text = text[:image] + text[image:].replace("DT_FLOAT", "DT_UINT8", 1)
    text = text.replace("embed_tensor", "embed_images")
    text = text.replace('"224"', '"32"').replace('"512"', '"16"').replace("size: 512", "size: 16")
    text = text.replace("_arg_embed_images_image_0_0", "image").replace("?,224,224", "?,32,32")
    place = "" if "Shape of tensor" in text else r"\\n\\t [[image 0]]"
    return re.sub(r'\\n\\t \[\[\{\{.*\}\}\]\](?="\n\}$)', place, text)


def ask(served, name):
    pair = PAIRS[name]
    return pair, *served.call(pair["method"], pair["path"], adapted_request(pair["request"]))


def test_there_are_28_pairs():
    assert len(PAIRS) == 28


@pytest.mark.parametrize("name", PAIRS)
def test_status_and_headers(embedder, name):
    pair, status, headers, text = ask(embedder[0], name)
    headers = {key.title(): value for key, value in headers.items()}
    assert status == pair["status"]
    assert headers["Content-Type"] == pair["headers"]["Content-Type"]
    assert int(headers["Content-Length"]) == len(text)


CUT = [name for name, pair in PAIRS.items() if pair["response"].endswith("...")]


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in CUT])
def test_whole_answers(embedder, name):
    pair, _, _, text = ask(embedder[0], name)
    wanted = adapted_answer(pair)
    assert text.decode() == wanted
    if wanted == pair["response"]:
        assert len(text) == int(pair["headers"]["Content-Length"])


@pytest.mark.parametrize("name", [name for name in CUT if name.startswith("predict")])
def test_predictions(embedder, name):
    served, embedding = embedder
    pair, _, _, text = ask(served, name)
    # All but the numbers, as far as it was recorded, to the end of the first row here.
    first, recorded = text.decode().split("]")[0], pair["response"][:-3]
    ours, theirs = (NUMBER.sub("0", t).rpartition("0")[0] for t in (first, recorded))
    length = min(len(ours), len(theirs))
    assert length > 50 and ours[:length] == theirs[:length]
    (rows,) = json.loads(text).values()
    assert len(rows) == (2 if name == "predict_v" else 1)
    np.testing.assert_allclose(rows, np.tile(embedding, (len(rows), 1)), atol=1e-5)


def test_predictions_are_as_long_as_their_numbers_make_them(embedder):
    """The rest of what was recorded is cut, but its length tells how it goes on and ends."""

    def relations(row, two, columns, size):
        # Around a row are 30 characters, and two between rows.
        assert two == 2 * (row - 30) + 32
        # A number of a column has a line of its own.
        assert columns - row == 12 * size + 15

    names = ("predict_row", "predict_v", "predict_col")
    relations(*(int(PAIRS[name]["headers"]["Content-Length"]) for name in names), 512)
    relations(*(len(ask(embedder[0], name)[3]) for name in names), 16)


def test_numbers_are_written_as_theirs():
    from keras_featx.serving.json_text import decimals

    recorded = NUMBER.finditer(PAIRS["predict_row"]["response"][:-3].rsplit(",", 1)[0])
    texts = [match.group() for match in recorded]
    assert len(texts) > 20
    assert decimals(np.array([float(text) for text in texts], "float32")) == texts
    assert decimals(np.array([0, -1, 9e6, 3e-5, 0.1], "float32")) == [
        "0.0", "-1.0", "9e+06", "3e-05", "0.1",
    ]  # fmt: skip


def test_two_forms_at_once(embedder):
    """A value that an error repeats is cut here, unlike there."""
    pair, _, _, text = ask(embedder[0], "err_both")
    assert text.decode().startswith(pair["response"][:-3])
    message = json.loads(text)["error"]
    assert len(message) < 1200
    assert message.endswith(
        "... Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    )
