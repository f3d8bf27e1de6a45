"""Serving: the same numbers as Keras', whatever is asked at once; faults are answers, not hangs."""

import base64
import contextlib
import dataclasses
import http.client
import json
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI
from pictures import encoded, exif_segment, into_jpeg, noise, oriented
from PIL import Image
from served import expected, export_folder, serving

from keras_featx import images
from keras_featx.serving import embedder
from keras_featx.serving.headers import pixels_of
from keras_featx.serving.options import Limits

PREDICT = "/v1/models/embedder:predict"
PICTURES = sorted(EMOJI_MINI.glob("test/*/*.png"))[:32]


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, *export_folder(folder)


@pytest.fixture(scope="module")
def served(export):
    limits = Limits(body=2**20, images=16, pixels=1_000_000, queue=64)
    with serving(export[0], limits) as server:
        yield server


@pytest.fixture
def files(tmp_path, data_dir):
    """Real images of several kinds, as files."""
    photo = (data_dir / "img_photo.jpg").read_bytes()
    frames = [Image.fromarray(noise(40, 56, seed=seed)) for seed in range(2)]
    kinds = {
        "photo.jpg": photo,
        "turned.jpg": into_jpeg(photo, exif_segment(oriented(6))),
        "grey.png": encoded(Image.open(data_dir / "img_photo.png").convert("L"), "PNG"),
        "clear.png": encoded(noise(40, 30, channels=4), "PNG"),
        "colours.bmp": encoded(Image.fromarray(noise(20, 30)).quantize(16), "BMP"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "moving.webp": encoded(
            frames[1], "WEBP", save_all=True, append_images=frames[:1], lossless=True
        ),
    }
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in kinds]


def test_encoded_images_give_what_keras_gives(served, export, files):
    _, config, model = export
    wanted = expected(config, model, [*files, *PICTURES[:4]])
    data = [b64(path.read_bytes()) for path in [*files, *PICTURES[:4]]]
    status, answer = served.post(PREDICT, {"instances": data})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], wanted, atol=1e-5)
    status, answer = served.post(PREDICT, {"inputs": {"image_bytes": data}})
    np.testing.assert_allclose(answer["outputs"], wanted, atol=1e-5)
    named = [{"image_bytes": one} for one in data]
    body = {"signature_name": "", "instances": named}
    np.testing.assert_allclose(served.post(PREDICT, body)[1]["predictions"], wanted, atol=1e-5)


def test_pixels_give_what_keras_gives(served, export, files):
    _, config, model = export
    size, preprocess = config.Arch.image_size, config.Arch.Preprocess
    pixels = [images.load(tf.constant(str(p)), size, preprocess).numpy().tolist() for p in files]
    for body, key in (
        ({"instances": pixels}, "predictions"),
        ({"instances": [{"image": one} for one in pixels]}, "predictions"),
        ({"inputs": {"image": pixels}}, "outputs"),
        ({"inputs": pixels}, "outputs"),
    ):
        status, answer = served.post(PREDICT, {"signature_name": "embed_images", **body})
        assert status == 200
        np.testing.assert_allclose(answer[key], expected(config, model, files), atol=1e-5)


def test_of_many_clients_each_gets_its_own(served, export, data_dir):
    _, config, model = export
    paths = [*PICTURES[:31], data_dir / "img_photo.jpg"]
    wanted = expected(config, model, paths)
    size, preprocess = config.Arch.image_size, config.Arch.Preprocess
    pixels = [images.load(tf.constant(str(p)), size, preprocess).numpy().tolist() for p in paths]
    names = ["a", "b", "c", "d"]

    def ask(client):
        for turn in range(4):
            i = (client + 7 * turn) % 32
            kind = names[(client + turn) % 4]
            if kind == "a":
                body = {"instances": [b64(paths[i].read_bytes())]}
            elif kind == "b":
                body = {"inputs": [b64(paths[j].read_bytes()) for j in (i, (i + 1) % 32)]}
            elif kind == "c":
                body = {"signature_name": "embed_images", "instances": [pixels[i]]}
            else:
                assert served.error({"instances": ["no image"]})[0] == 400
                continue
            for _ in range(200):  # all together are more than may wait
                status, answer = served.post(PREDICT, body)
                if status != 503:
                    break
                time.sleep(0.02)
            (rows,) = answer.values()
            rows_wanted = wanted[[i, (i + 1) % 32] if kind == "b" else [i]]
            np.testing.assert_allclose(rows, rows_wanted, atol=1e-5)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32)))


def png_header(width, height):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000)))


def jpeg_of(side):
    """A JPEG that says it is so large, in its header of 20 bytes at 158."""
    data = bytearray(encoded(Image.fromarray(noise(16, 16)), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def hidden_jpeg():
    """A byte between segments, which decoders pass over, leads a simple reader to another size."""
    huge = jpeg_of(60000)
    place = huge.index(b"\xff\xc0")
    small = encoded(Image.fromarray(noise(16, 16)), "JPEG")
    distance = 0xFFC0 + place + 1 - len(huge)
    return (
        huge[:place] + b"\xe0" + huge[place:] + bytes(distance) + small[small.index(b"\xff\xc0") :]
    )


def gif_of(frames, side):
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x01\x00\x00"
    return head + frame * frames + b";"


def webp_frame(side):
    still = encoded(Image.fromarray(noise(8, 8)), "WEBP", lossless=True)
    three = (side - 1).to_bytes(3, "little")
    body = bytes(6) + three * 2 + bytes(4) + still[12:]
    canvas = b"\x02\0\0\0" + (7).to_bytes(3, "little") * 2
    chunks = b"VP8X" + struct.pack("<I", 10) + canvas
    chunks += b"ANMF" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


BOMBS = {
    "png": (png_header(30000, 30000), 900_000_000),
    "jpeg": (jpeg_of(30000), 900_000_000),
    "hidden jpeg": (hidden_jpeg(), 3_600_000_000),
    "gif, one frame": (gif_of(1, 30000), 900_000_000),
    "gif, many frames": (gif_of(1000, 100), 10_000_000),
    "webp, a frame beyond its canvas": (webp_frame(16000), 256_000_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(served, name, monkeypatch):
    data, pixels = BOMBS[name]
    assert len(data) < 200_000

    def decode(data):
        raise AssertionError("it was decoded")

    embedders = served.service.embedders
    monkeypatch.setitem(embedders, 1, dataclasses.replace(embedders[1], decode=decode))
    tracemalloc.start()
    status, sentence = served.error({"instances": [b64(data)]})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (status, sentence) == (
        413,
        f"Expected an image of at most 1000000 pixels, got {pixels} by its header\n\t [[image 0]]",
    )
    assert peak < 4_000_000


def test_pixels_are_counted_as_decoders_count(files):
    for path in files:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1) if path.suffix == ".gif" else 1
            assert pixels_of(path.read_bytes()) == picture.width * picture.height * frames


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required."),
        (b"II*\0" + bytes(60), "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, "
         "WebP required."),
        (b"\xff\x0a" + bytes(60), "JPEG XL is not served. One of JPEG, PNG, GIF, BMP, WebP "
         "required."),
        (b"\x89PNG\r\n\x1a\n", "PNG: expected a header with the size of the image."),
        (png_header(0, 5), "PNG: expected a header with the size of the image."),
        (b"RIFF\x20\0\0\0WEBPXXX\x9d\x01\x2a" + bytes(20), "WebP: expected a header with the size "
         "of the image."),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(served, data, reason):
    good = b64(PICTURES[0].read_bytes())
    status, sentence = served.error({"instances": [good, b64(data), b64(b"x")]})
    assert (status, sentence) == (400, f"{reason}\n\t [[image 1]]")


def test_a_damaged_image_is_named(served, data_dir):
    photo = (data_dir / "img_photo.jpg").read_bytes()
    broken = photo[:300] + bytes(50)
    status, sentence = served.error({"instances": [b64(broken)]})
    assert status == 400 and sentence.endswith("\n\t [[image 0]]")
    assert "{{" not in sentence and "[Op:" not in sentence
    bmp = b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, 9, 9, 1, 24, 0, 0, 0, 0, 0, 0)
    assert served.error({"instances": [b64(bmp)]}) == (
        400,
        "assertion failed: [BMP: expected all rows; got size of the file, width, height:] "
        "[54 9 9]\n\t [[image 0]]",
    )


WRONG = [
    (b"", "JSON Parse error: The document is empty"),
    (b"  ", "JSON Parse error: The document is empty. at offset: 2"),
    (b"\xff{}", "JSON Parse error: Invalid encoding in string. at offset: 0"),
    (b'{"a": "x', "JSON Parse error: Missing a closing quotation mark in string. at offset: 8"),
    (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
    (b"{1: 2}", "JSON Parse error: Missing a name for object member. at offset: 1"),
    (b'{"a":[1 2]}', "JSON Parse error: Missing a comma or ] after an array element. at offset: 8"),
    (b'{"a":[1] 2', "JSON Parse error: Missing a comma or } after an object member. at offset: 9"),
    (
        '{"ä": 1} 2'.encode(),
        "JSON Parse error: The document root must not be followed by other values. at offset: 10",
    ),
    (b"[" * 100_000, "JSON Parse error: nested too deeply, or a number of too many digits"),
    (
        b'{"a": %s}' % (b"1" * 5000),
        "JSON Parse error: nested too deeply, or a number of too many digits",
    ),
    (b"[1]", "JSON Value: [1] Is not object"),
    ({"instances": 3}, 'JSON Value: {\n    "instances": 3\n} Excepting \'instances\' to be an '
     "list/array"),
    ({"signature_name": 1}, 'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
     "'signature_name' key must be a string value."),
    ({"inputs": []}, "JSON Value: {\n    \"inputs\": []\n} No values in 'inputs'"),
    ({"inputs": {"image": []}}, "Missing named input: image_bytes in 'inputs' object."),
    ({"inputs": "abc"}, "Shape of tensor image_bytes [] is not compatible with expected shape "
     "[?]."),
    ({"instances": [["abc"]]}, "Shape of tensor image_bytes [1,1] is not compatible with expected "
     "shape [?]."),
    ({"instances": ["abc", {"image_bytes": "abc"}]}, "Expecting value/list but got object at item "
     "1 of input list"),
    ({"instances": [{"image_bytes": "abc"}, "abc"]}, "Expecting object but got list at item 1 of "
     "input list"),
    ({"instances": [{}]}, "Failed to process element: 0 of 'instances' list. JSON object: {} must "
     "only have keys: image_bytes"),
    ({"instances": ["a", ["b"]]}, "Failed to process element: 1 of 'instances' list. Error: "
     "INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
    ({"instances": [1.5]}, "Failed to process element: 0 of 'instances' list. Error: "
     "INVALID_ARGUMENT: JSON Value: 1.5 Type: Number is not of expected type: string"),
    ({"inputs": [{"b64": 1}]}, 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 '
     "data"),
]  # fmt: skip


@pytest.mark.parametrize("body, sentence", WRONG)
def test_a_wrong_request_gets_a_sentence(served, body, sentence):
    assert served.error(body) == (400, sentence)


@pytest.mark.parametrize(
    "value, sentence",
    [
        (256, "JSON Value: 256 Type: Number is not of expected type: uint8"),
        (-1, "JSON Value: -1 Type: Number is not of expected type: uint8"),
        (0.5, "JSON Value: 0.5 Type: Number is not of expected type: uint8"),
        (True, "JSON Value: true Type: True is not of expected type: uint8"),
        ("1", 'JSON Value: "1" Type: String is not of expected type: uint8'),
        (None, "JSON Value: null Type: Null is not of expected type: uint8"),
        ([1], "Encountered list at unexpected level: 3 expected < 3"),
    ],
)
def test_pixels_are_whole_numbers_to_255(served, value, sentence):
    """TensorFlow Serving takes 256 for 0."""
    pixels = np.zeros((32, 32, 3), int).tolist()
    pixels[31][31][2] = value
    status, found = served.error({"signature_name": "embed_images", "instances": [pixels]})
    place = "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
    assert (status, found) == (400, place + sentence)


def test_pixels_of_another_size_are_refused(served):
    """Unguarded, TensorFlow Serving embeds them as if they were right."""
    for shape in ((1, 64, 64, 3), (1, 32, 32, 1), (2, 32, 32), (1, 2, 32, 32, 3)):
        text = ",".join(map(str, shape))
        body = {"signature_name": "embed_images", "inputs": np.zeros(shape, int).tolist()}
        assert served.error(body) == (
            400,
            f"Shape of tensor image [{text}] is not compatible with expected shape [?,32,32,3].",
        )


def test_base64_may_be_wrapped_and_go_without_its_end(served):
    data = PICTURES[0].read_bytes()
    data += bytes((1 - len(data)) % 3)
    text = base64.b64encode(data).decode()
    assert text.endswith("==")
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76)).rstrip("=")
    rows = [
        served.post(PREDICT, {"instances": [{"b64": one}]})[1]["predictions"]
        for one in (text, wrapped)
    ]
    assert rows[0] == rows[1]
    assert served.error({"instances": [{"b64": "ä"}]})[0] == 400


def test_too_much_is_refused(served):
    body = b'{"instances": ["' + bytes(2**21).replace(b"\0", b"x")
    assert served.error(body) == (
        413, f"Expected a body of at most 1048576 bytes, got {len(body)}",
    )  # fmt: skip
    # A sender that does not say how much is to come.
    chunks = iter([b"x" * 2**19] * 5)
    status, text = _chunked(served, chunks)
    assert (status, json.loads(text)["error"]) == (
        413, "Expected a body of at most 1048576 bytes, got more",
    )  # fmt: skip
    assert served.error({"instances": ["x"] * 17}) == (
        413, "Expected at most 16 images in a request, got 17",
    )  # fmt: skip
    assert served.error({"inputs": {"image_bytes": ["x"] * 17}})[0] == 413
    headers = {"Content-Encoding": "gzip"}
    status, _, text = served.call("POST", PREDICT, b"x", headers)
    assert (status, json.loads(text)["error"]) == (
        415, "Content-Encoding: expected none, got gzip",
    )  # fmt: skip


def test_bodies_of_many_requests_have_a_bound_together(export):
    """Senders that stop halfway, and one more."""
    with serving(export[0], Limits(body=1000)) as server, contextlib.ExitStack() as stack:
        senders = []
        for _ in range(4):
            sender = stack.enter_context(socket.create_connection((server.host, server.port)))
            sender.sendall(b"POST /v1/models/embedder:predict HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Length: 1000\r\n\r\n" + b" " * 999)  # fmt: skip
            senders.append(sender)
        for _ in range(500):
            if server.service.bodies.held == 3996:
                break
            time.sleep(0.01)
        status, headers, text = server.call("POST", PREDICT, b"     ")
        assert status == 503 and headers["retry-after"] == "1"
        assert json.loads(text)["error"] == (
            "Too many bodies: 3996 of at most 4000 bytes in memory; try again"
        )
        senders[0].sendall(b" ")
        assert senders[0].recv(12) == b"HTTP/1.1 400"
        assert server.error(b"     ")[0] == 400
        assert server.service.bodies.held == 2997


def _chunked(served, chunks):
    connection = http.client.HTTPConnection(served.host, served.port, timeout=30)
    connection.request("POST", PREDICT, chunks, encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.fixture
def gate(monkeypatch):
    """Networks wait until it is opened."""
    opened = threading.Event()
    before = embedder.Embedder.embed_pixels

    def slow(self, image):
        assert opened.wait(30)
        return before(self, image)

    monkeypatch.setattr(embedder.Embedder, "embed_pixels", slow)
    yield opened
    opened.set()


def test_a_full_queue_refuses_and_goes_on_later(export, gate):
    one = b64(PICTURES[0].read_bytes())
    with serving(export[0], Limits(queue=2, images=2)) as server, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(server.post, PREDICT, {"instances": [one] * 2}) for _ in range(2)]
        while server.service.workers.waiting < 2:
            time.sleep(0.01)
        assert server.call("GET", "/readyz")[0] == 503
        assert server.call("GET", "/healthz")[0] == 200
        status, headers, text = server.call("POST", PREDICT, {"instances": [one]})
        assert status == 503 and headers["retry-after"] == "1"
        assert json.loads(text)["error"] == "Too many images wait: 2 of at most 2; try again"
        gate.set()
        assert [task.result()[0] for task in running] == [200, 200]
        assert server.post(PREDICT, {"instances": [one]})[0] == 200
        assert server.service.workers.waiting == 0


def test_what_takes_too_long_is_given_up(export, gate):
    one = b64(PICTURES[0].read_bytes())
    with serving(export[0], Limits(timeout=1.5)) as server:
        started = time.perf_counter()
        # Two of them run, two wait and are never begun.
        assert server.error({"instances": [one] * 4}) == (504, "No answer within 1.5 s")
        assert time.perf_counter() - started < 10
        assert server.service.workers.waiting == 0
        gate.set()
        assert server.post(PREDICT, {"instances": [one]})[0] == 200
        assert server.service.metrics.total("images") == 1
    with serving(export[0], Limits(timeout=0.3)) as server:
        with socket.create_connection((server.host, server.port)) as sender:
            sender.sendall(b"POST /v1/models/embedder:predict HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Length: 99\r\n\r\n{")  # fmt: skip
            answer = sender.makefile("rb").read(400).decode()
        assert answer.startswith("HTTP/1.1 408")
        assert "The body did not arrive within 0.3 s" in answer


def test_an_exception_in_a_worker_is_an_answer(served, monkeypatch, caplog):
    def broken(self, image):
        raise RuntimeError("the network is broken\nat line 3")

    one = {"instances": [b64(PICTURES[0].read_bytes())]}
    with monkeypatch.context() as patch:
        patch.setattr(embedder.Embedder, "embed_pixels", broken)
        sentence = "Internal error: RuntimeError: the network is broken"
        assert served.error(one) == (500, sentence)
    assert "at line 3" in caplog.text
    assert served.post(PREDICT, one)[0] == 200


def test_metrics_count(export):
    one = b64(PICTURES[0].read_bytes())
    with serving(export[0]) as server:
        server.post(PREDICT, {"instances": [one] * 3})
        server.post(PREDICT, {"instances": ["x"]})
        server.call("GET", "/v1/models/embedder")
        server.call("PUT", "/nowhere")
        status, headers, text = server.call("GET", "/metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = text.decode().splitlines()
        for line in (
            'featx_requests_total{code="200",route="predict"} 1.0',
            'featx_requests_total{code="400",route="predict"} 1.0',
            'featx_requests_total{code="200",route="status"} 1.0',
            'featx_requests_total{code="404",route="other"} 1.0',
            'featx_request_seconds_count{route="predict"} 2.0',
            "featx_images_total 3.0",
            "featx_image_seconds_count 4.0",
            "featx_queue_images 0.0",
        ):
            assert line in lines


def test_other_addresses(served):
    def error(method, path, body=None):
        status, _, text = served.call(method, path, body)
        return status, json.loads(text)["error"]

    assert error("GET", "/v1/models") == (400, "Missing model name in request.")
    assert error("GET", "/") == (404, "Malformed request: GET /")
    assert error("PUT", PREDICT) == (400, f"Malformed request: PUT {PREDICT}")
    one = {"instances": ["x"]}
    assert error("POST", "/v1/models/nope:predict", one) == (
        404, "Servable not found for request: Latest(nope)",
    )  # fmt: skip
    assert error("POST", "/v1/models/embedder/versions/9:predict", one) == (
        404, "Servable not found for request: Specific(embedder, 9)",
    )  # fmt: skip
    assert error("POST", "/v1/models/embedder/labels/stable:predict", one) == (
        400, "Unrecognized servable version label: stable",
    )  # fmt: skip
    digits = "9" * 30
    assert error("GET", f"/v1/models/embedder/versions/{digits}") == (
        400, f"Failed to convert version: {digits} to numeric.",
    )  # fmt: skip
    assert error("POST", "/v1/models/embedder:regress", {"examples": [{}]})[1].startswith(
        "No regression inputs found in SignatureDef: "
    )
    assert served.call("HEAD", "/healthz")[::2] == (200, b"")
    assert served.call("GET", "/V1/MODELS/%65mbedder?x=1")[0] == 200
