"""Paddle's files: all forms of arrays are read, and nothing of a file is ever executed."""

import collections
import os
import pickle
import pickletools
import random
import struct
import sys

import numpy as np
import pytest

from keras_featx.errors import ConfigError
from keras_featx.interop.paddle_files import read_pdiparams, read_pdparams
from keras_featx.interop.paddle_programs import read_program

EXECUTED = []


def canary(*arguments):
    """What a file must not reach."""
    EXECUTED.append(arguments)
    return {}


class Calls:
    """Is pickled as a call, or as what else a ``__reduce__`` may give."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.fixture(scope="module")
def archive(request):
    return np.load(request.config.rootpath / "tests" / "data" / "paddle_files.npz")


@pytest.fixture
def exported(archive, tmp_path):
    """The export of Paddle 2.6.2."""
    for name in ("inference.pdiparams", "inference.pdiparams.info", "inference.pdmodel"):
        (tmp_path / name).write_bytes(archive[f"2.6.2/{name}"].tobytes())
    return tmp_path


def written(folder, data):
    path = folder / "x.pdparams"
    path.write_bytes(data)
    return path


def refusal(function, path, *arguments):
    """The message, without the file's name that it begins with."""
    with pytest.raises(ConfigError) as error:
        function(path, *arguments)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def refused(text):
    return f"expected a pickle of arrays alone, but it {text}"


# Arrays


RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.normal(size=(3, 4)).astype("f4"),
    "float16": RNG.normal(size=(2, 3, 1, 5)).astype("f2"),
    "float64": RNG.normal(size=7),
    "big-endian": RNG.normal(size=(2, 2)).astype(">f4"),
    "columns first": np.asfortranarray(RNG.normal(size=(4, 3))),
    "a view": RNG.normal(size=(4, 3))[::2].T,
    "whole": RNG.integers(-9, 9, size=(3,)),
    "bytes": RNG.integers(0, 255, size=(5,)).astype("u1"),
    "truth": np.array([True, False]),
    "number": np.array(2.5, "f4"),
    "empty": np.empty((0, 3), "f4"),
}


@pytest.mark.parametrize("of_numpy_1", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back(tmp_path, protocol, of_numpy_1):
    data = pickle.dumps(ARRAYS, protocol=protocol)
    if of_numpy_1:
        for module in (b"multiarray", b"numeric"):
            old, new = b"numpy._core." + module, b"numpy.core." + module
            data = data.replace(b"c" + old, b"c" + new)
            data = data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
        assert b"_core" not in data
    found = read_pdparams(written(tmp_path, data))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")


def test_other_spellings_of_arrays_come_back(tmp_path):
    """Tensors with their names, one array under two names, ordered dicts, the table of names."""
    array = np.arange(3, dtype="f4")
    tree = collections.OrderedDict(first=array, second=array)
    tree["tensor"] = Calls(tuple, (("linear_0.w_0", array + 1),))
    tree["StructuredToParameterName@@"] = {"first": "conv2d_0.w_0"}
    for protocol in (2, 4):
        found = read_pdparams(written(tmp_path, pickle.dumps(tree, protocol=protocol)))
        assert list(found) == ["first", "second", "tensor"]
        np.testing.assert_array_equal(found["second"], [0, 1, 2])
        np.testing.assert_array_equal(found["tensor"], [1, 2, 3])


def test_python_2_wrote_bytes_as_text(tmp_path):
    numbers = np.array([1.5, -2], "<f4")
    data = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + numbers.tobytes()
        + b"tbs."
    )
    np.testing.assert_array_equal(pickle.loads(data, encoding="latin1")["a"], numbers)
    np.testing.assert_array_equal(read_pdparams(written(tmp_path, data))["a"], numbers)


def test_uint16_is_bfloat16(tmp_path):
    found = read_pdparams(
        written(tmp_path, pickle.dumps({"x": np.array([0x3F80, 0xC040, 0], "u2")}))
    )
    np.testing.assert_array_equal(found["x"], np.array([1, -3, 0], "f4"))
    assert found["x"].dtype == "f4"


# What is no array


def stacked(module, name):
    """A name that a file asks for, as protocol 4 writes it."""
    return b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)
    ) + b"\x93"  # fmt: skip


ASKS = {
    "os.system": (b"\x80\x02cos\nsystem\nU\x04true\x85R.", "os.system"),
    "posix.system": (pickle.dumps({"a": Calls(os.system, ("true",))}), "posix.system"),
    "builtins.eval": (pickle.dumps({"a": Calls(eval, ("1",))}, protocol=4), "builtins.eval"),
    "builtins.eval, protocol 2": (pickle.dumps([Calls(eval, ("1",))], 2), "__builtin__.eval"),
    "paddle's own eval": (
        pickle.dumps({"a": Calls(eval, ("data", {"data": np.zeros(1)}))}), "builtins.eval",
    ),
    "builtins.getattr": (pickle.dumps(Calls(getattr, ((), "count"))), "builtins.getattr"),
    "a chain": (
        pickle.dumps({"a": Calls(getattr, (Calls(__import__, ("os",)), "system"))}),
        "builtins.getattr",
    ),
    "a function": (pickle.dumps({"a": Calls(canary, (1,))}), f"{__name__}.canary"),
    "its class": (pickle.dumps(canary), f"{__name__}.canary"),
    "inside a tensor": (
        pickle.dumps({"a": Calls(tuple, (("n", Calls(canary, ())),))}), f"{__name__}.canary",
    ),
    "inside the table of names": (
        pickle.dumps({"StructuredToParameterName@@": {"a": Calls(canary, ())}}),
        f"{__name__}.canary",
    ),
    "as a state": (pickle.dumps(Calls(tuple, ((),), Calls(canary, ()))), f"{__name__}.canary"),
    "an object array": (pickle.dumps(np.array([Calls(canary, ())])), "type 'O8'"),
    "numpy.load": (pickle.dumps(Calls(np.load, ("x.npy",))), "numpy.load"),
    "a module": (stacked("this", "s") + b".", "this.s"),
    "a dotted name": (stacked("numpy", "dtype.type") + b".", "numpy.dtype.type"),
    "a blank": (stacked("numpy dtype", "") + b".", "numpy dtype."),
    "a terminal's command": (stacked("\x1b[2J", "x") + b".", r"\x1b[2J.x"),
    "INST": (b"\x80\x02(U\x04trueios\nsystem\n.", "os.system"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKS)
def test_what_a_file_asks_for_is_named_and_not_done(tmp_path, case):
    data, name = ASKS[case]
    message = refusal(read_pdparams, written(tmp_path, data))
    verb = "has an array of the" if name.startswith("type") else "asks for"
    assert message == refused(f"{verb} {name}")
    assert EXECUTED == [] and "this" not in sys.modules


def test_the_canary_sings():
    """Where a file is unpickled, what is above does run."""
    for case in ("a function", "inside a tensor", "an object array"):
        pickle.loads(ASKS[case][0])
    assert EXECUTED == [(1,), (), ()]
    EXECUTED.clear()


RECONSTRUCT = stacked("numpy.core.multiarray", "_reconstruct")
TUPLE = stacked("builtins", "tuple")[2:]
DTYPE = stacked("numpy", "dtype")[2:]
NDARRAY = stacked("numpy", "ndarray")[2:]
ENCODE = stacked("_codecs", "encode")[2:]
START = b"\x80\x04"
COMMANDS = {
    "a call of a text": (START + b"\x8c\x01a)R.", "calls what is no part of an array"),
    "a call of an array": (
        pickle.dumps(np.zeros(1), 4)[:-1] + b")R.", "calls what is no part of an array",
    ),
    "a call without arguments": (START + TUPLE + b"NR.", "calls what is no part of an array"),
    "other arguments": (
        START + TUPLE + b")R.", "calls builtins.tuple with other arguments than NumPy",
    ),
    "numpy.ndarray": (START + NDARRAY + b")R.", "calls numpy.ndarray"),
    "an attribute of what is named": (
        START + TUPLE + b"}\x8c\x04makeK\x01sb.", "sets the state of what is no array of numbers",
    ),
    "attributes by a second dict": (
        START + TUPLE + b"N}\x8c\x04makeK\x01s\x86b.",
        "sets the state of what is no array of numbers",
    ),
    "an item of what is named": (
        START + TUPLE + b"\x8c\x01aK\x01s.", "puts something into what is no dict",
    ),
    "an item of an array": (
        pickle.dumps(np.zeros(1), 4)[:-1] + b"K\x00K\x01s.", "puts something into what is no dict",
    ),
    "an entry of a dict": (START + b"}K\x01a.", "puts something into what is no list"),
    "another array class": (
        RECONSTRUCT + DTYPE + b"K\x00\x85C\x01b\x87R.",
        "makes an array of another kind than numpy.ndarray",
    ),
    "a new object": (START + TUPLE + b")\x81.", "has the command NEWOBJ"),
    "an extension": (START + b"\x82\x01.", "has the command EXT1"),
    "a persistent id": (START + b"K\x01Q.", "has the command BINPERSID"),
    "a buffer outside": (b"\x80\x05\x97.", "has the command NEXT_BUFFER"),
    "a set": (START + b"\x8f.", "has the command EMPTY_SET"),
    "no operands": (START + b"R.", "has a command without its operands"),
    "operands before a mark": (START + b"N(\x85.", "has a command without its operands"),
    "no mark": (START + b"Nt.", "has a command without its operands"),
    "no memo": (START + b"h\x07.", "asks for entry 7 of its memo, which is not there"),
    "half a pair": (START + b"}(K\x01u.", "has a key without a value"),
    "a list as a key": (START + b"}]K\x01s.", "has a key of the type list"),
    "a name twice": (START + b"}(\x8c\x01aN\x8c\x01aNu.", "has the key 'a' twice"),
    "values over": (START + b"NN.", "leaves values over"),
    "bytes over": (START + b"}.more", "has 4 bytes behind its end"),
    "another coding": (
        START + ENCODE + b"\x8c\x01a\x8c\x05utf-7\x86R.", "encodes what is no text of latin1",
    ),
    "a type with fields": (
        START + DTYPE + b"\x8c\x02V8\x89\x88\x87R.", "has an array of the type 'V8'",
    ),
    "a type that is no text": (START + DTYPE + b"K\x01\x85R.", "has an array of the type no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_other_commands_are_refused(tmp_path, case):
    data, message = COMMANDS[case]
    assert refusal(read_pdparams, written(tmp_path, data)) == refused(message)


def test_reading_leaves_what_stands_for_names_as_it_was(tmp_path):
    """After attempts to change it, the same file is still refused, and arrays still come."""
    for case in COMMANDS:
        refusal(read_pdparams, written(tmp_path, COMMANDS[case][0]))
    test_arrays_come_back(tmp_path, 4, False)


def array_of(shape, data, code="f4"):
    """A pickled array that says what it likes of itself."""
    state = pickle.dumps((1, shape, None, False, data), 4)[2:-1].split(b"N", 1)
    order = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    dtype = DTYPE + b"\x8c" + bytes([len(code)]) + code.encode() + b"\x89\x88\x87R" + order
    unframed = state[0][9:] if state[0][:1] == b"\x95" else state[0]
    return RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R" + unframed + dtype + state[1] + b"b."


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ((2**30, 2**30), b"1234", "has an array of float32 and the shape (1073741824, 1073741824), "
         "4611686018427387904 bytes, in 4"),
        ((2,), b"1234567", "has an array of float32 and the shape (2,), 8 bytes, in 7"),
        ((0,), b"1234", "has an array of float32 and the shape (0,), 0 bytes, in 4"),
        ((-1, -1), b"1234", "has an array without a shape"),
        ((2**62, 0), b"", "has an array without a shape"),
        ((True,), b"1234", "has an array without a shape"),
        ([1], b"1234", "has an array without a shape"),
        ((1,), [1.0], "has an array without numbers"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_there_are_refused(tmp_path, shape, data, message):
    path = written(tmp_path, array_of(shape, data))
    assert refusal(read_pdparams, path) == refused(message)


def test_an_array_that_is_there_is_not_a_dict(tmp_path):
    path = written(tmp_path, array_of((1,), b"1234"))
    assert refusal(read_pdparams, path) == "expected arrays by name, got ndarray"


@pytest.mark.parametrize("command", [b"\x8e", b"\x96", b"\x8d"])  # bytes, bytearray, text
@pytest.mark.parametrize("length", [100, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_length_beyond_the_file_takes_no_memory(tmp_path, command, length):
    path = written(tmp_path, b"\x80\x05" + command + struct.pack("<Q", length) + b"few.")
    assert refusal(read_pdparams, path).startswith("expected a whole pickle: ")


def test_bytes_that_are_used_again_and_again_are_added_up(tmp_path):
    text = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000 + b"\x94"
    once = ENCODE + b"h\x00\x8c\x06latin1\x86R"
    few, many = (START + b"]" + text + b"a" + (once + b"a") * n + b"." for n in (2, 500))
    assert refusal(read_pdparams, written(tmp_path, few)) == "expected arrays by name, got list"
    assert refusal(read_pdparams, written(tmp_path, many)) == refused("makes more than it holds")


def test_nesting_is_no_trouble(tmp_path):
    for data in (START + b"]" * 200_000 + b"a" * 199_999, START + b"N" + b"\x85" * 200_000):
        message = refusal(read_pdparams, written(tmp_path, data + b"."))
        assert message.startswith("expected arrays by name, got ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epoch": 3}, "epoch: expected an array, got int"),
        ({"net": {"a": np.zeros(1)}}, "net: expected an array, got dict"),
        ({"a": ("name", 1.0)}, "a: expected an array, got float"),
        ({"StructuredToParameterName@@": 1}, "StructuredToParameterName@@: expected an array, got "
         "int"),
        ({3: np.zeros(1)}, "expected a printable name of an array, got int"),
        ({"a\x1b[2J": np.zeros(1)}, r"expected a printable name of an array, got 'a\x1b[2J'"),
        ([np.zeros(1)], "expected arrays by name, got list"),
    ],
)  # fmt: skip
def test_only_arrays_by_name_are_weights(tmp_path, value, message):
    assert refusal(read_pdparams, written(tmp_path, pickle.dumps(value))) == message


def test_paddle_s_files_of_other_things_are_refused(archive, tmp_path):
    path = written(tmp_path, archive["2.6.2/nested.pdparams"].tobytes())
    assert refusal(read_pdparams, path) == "net: expected an array, got dict"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", refused("begins with b'' instead of pickle protocol 2 to 5")),
        (b"weights", refused("begins with b'weig' instead of pickle protocol 2 to 5")),
        (b"(dp0\n.", refused("begins with b'(dp0' instead of pickle protocol 2 to 5")),
        (b"\x80\x06N.", refused(r"begins with b'\x80\x06N.' instead of pickle protocol 2 to 5")),
        (b"PK\x03\x04more", refused("is a zip archive, such as .npz or a file of PyTorch")),
        (b"\x89HDF\r\n", refused("is an HDF5 file")),
        (b"\0" * 9, refused("is bare tensors, such as those of .pdiparams")),
        (b"\x80\x04", "expected a whole pickle: pickle exhausted before seeing STOP"),
        (b"\x80\x04\xff", r"expected a whole pickle: at position 2, opcode b'\xff' unknown"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    assert refusal(read_pdparams, written(tmp_path, data)) == message


def test_a_missing_file_is_named(tmp_path):
    message = "expected a readable file: No such file or directory"
    assert refusal(read_pdparams, tmp_path / "no.pdparams") == message
    assert refusal(read_pdparams, tmp_path) == "expected a readable file: Is a directory"


@pytest.mark.parametrize("name", ["tensors.pdparams", "protocol2.pdparams", "distilled.pdparams"])
def test_a_truncated_file_is_refused_wherever_it_ends(archive, tmp_path, name):
    data = archive[f"2.6.2/{name}"].tobytes()
    assert read_pdparams(written(tmp_path, data))
    rng = random.Random(0)
    for end in {*range(40), *rng.sample(range(len(data)), 150), len(data) - 1}:
        refusal(read_pdparams, written(tmp_path, data[:end]))


def test_a_damaged_file_gives_arrays_or_is_refused(archive, tmp_path):
    data, rng = archive["2.6.2/tensors.pdparams"].tobytes(), random.Random(1)
    commands = [place for _, _, place in pickletools.genops(data)]
    came = 0
    for _ in range(600):
        damaged = bytearray(data)
        for place in rng.sample(commands, 2):
            damaged[min(place + rng.randrange(3), len(data) - 1)] = rng.randrange(256)
        try:
            found = read_pdparams(written(tmp_path, bytes(damaged)))
        except ConfigError:
            continue
        came += 1
        assert all(isinstance(array, np.ndarray) for array in found.values())
    assert came < 300


# Exports


def test_an_export_is_read_by_the_names_of_its_layers(exported, archive):
    found = read_pdiparams(exported / "inference.pdiparams")
    wanted = read_pdparams(written(exported, archive["2.6.2/protocol2.pdparams"].tobytes()))
    assert not found.numbered and found.program.feature_scale == 0.8
    assert {f"base_model.{name}" for name in wanted} - set(found.arrays) == {
        "base_model.head.weight"
    }
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array, wanted[name.removeprefix("base_model.")])


def test_a_program_of_paddle_3_says_the_same(exported, archive):
    path = exported / "inference.json"
    path.write_bytes(archive["3.2.2/inference.json"].tobytes())
    assert read_program(path) == read_program(exported / "inference.pdmodel")
    shapes = read_program(path).shapes
    assert len(shapes) == 146 and list(shapes) == sorted(shapes)
    assert shapes["linear_1.w_0"] == (40, 12) and shapes["conv2d_1.w_0"] == (8, 1, 3, 3)


def test_a_program_says_its_dropout(exported, archive):
    binary = archive["2.6.2/inference.pdmodel"].tobytes()
    text = archive["3.2.2/inference.json"].tobytes()
    rate, half = struct.pack("<f", 0.2), struct.pack("<f", 0.5)
    for name, data, found in (
        ("a.pdmodel", binary.replace(rate, half), 0.5),
        ("b.pdmodel", binary.replace(b"downgrade_in_infer", b"another_in_training"[:18]), 1),
        ("c.json", text.replace(b"0.20000000298023224", b"0.5"), 0.5),
        ("d.json", text.replace(b"downgrade_in_infer", b"upscale_in_train"), 1),
    ):
        (exported / name).write_bytes(data)
        assert data not in (binary, text) and read_program(exported / name).feature_scale == found
    (exported / "e.json").write_bytes(text.replace(b"0.20000000298023224", b"1.0"))
    assert refusal(read_program, exported / "e.json") == (
        "expected a program of Paddle: a dropout of 1.0"
    )


def test_an_export_without_names_is_refused(exported):
    (exported / "inference.pdmodel").unlink()
    assert refusal(read_pdiparams, exported / "inference.pdiparams") == (
        "holds numbers without names: expected the network's file, inference.pdmodel or "
        "inference.json, beside it, or --model"
    )


def test_another_network_s_program_is_refused(exported, archive):
    """The same network with other numbers of classes and layers."""
    path = exported / "inference.pdiparams"
    text = archive["3.2.2/inference.json"].tobytes().decode()
    model = exported / "other.json"
    model.write_text(text.replace("[40,12]", "[40,13]"))
    assert refusal(read_pdiparams, path, model) == (
        "linear_1.w_0: expected shape (40, 13) as the network's file says, got (40, 12)"
    )
    model.write_text(text.replace('"linear_1.w_0"', '"linear_1.b_0"'))
    assert refusal(read_pdiparams, path, model) == (
        "linear_1.b_0: expected shape (40, 12) as the network's file says, got (12,)"
    )


def test_bytes_behind_the_last_tensor_are_refused(exported):
    path = exported / "inference.pdiparams"
    path.write_bytes(path.read_bytes() + b"more")
    assert refusal(read_pdiparams, path) == (
        "expected the 146 tensors that the network's file names, got 4 bytes more"
    )


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ((1, 0, 0, 5, b"\x08\x05\x10\x08\x00"), "another version, or rows of different lengths"),
        ((0, 0, 0, 2**31 - 1, b"\x08\x05"), "a description of 2147483647 bytes where 42454 are "
         "left"),
        ((0, 0, 0, -1, b"\x08\x05"), "a description of -1 bytes where 42454 are left"),
        ((0, 0, 0, 4, b"\x08\x17\x10\x08"), "numbers of the unknown type 23"),
        ((0, 0, 0, 2, b"\x10\x08"), "a tensor without a data type"),
        ((0, 0, 0, 7, b"\x08\x05\x10\xff\xff\xff\x7f"), "shape (268435455,), 1073741820 bytes, "
         "where 42447 are left"),
        ((0, 0, 0, 4, b"\x08\x05\x13\x08"), "an unknown wire type, 3"),
    ],
)  # fmt: skip
def test_a_damaged_tensor_is_named(exported, tensor, message):
    path = exported / "inference.pdiparams"
    *numbers, description = tensor
    begin = struct.pack("<IQIi", *numbers) + description
    path.write_bytes(begin + path.read_bytes()[len(begin) :])
    found = refusal(read_pdiparams, path)
    assert found == f"batch_norm2d_0.b_0: expected a tensor of Paddle: {message}"


def test_a_truncated_export_is_refused_wherever_it_ends(exported):
    path, rng = exported / "inference.pdiparams", random.Random(0)
    data = path.read_bytes()
    for end in {*range(30), *rng.sample(range(len(data)), 100), len(data) - 1}:
        path.write_bytes(data[:end])
        assert "expected a tensor of Paddle" in refusal(read_pdiparams, path)


@pytest.mark.parametrize("name", ["2.6.2/inference.pdmodel", "3.2.2/inference.json"])
def test_a_damaged_program_is_a_program_or_refused(archive, tmp_path, name):
    data, rng = archive[name].tobytes(), random.Random(2)
    path = tmp_path / name.partition("/")[2]
    for end in rng.sample(range(len(data)), 25):
        path.write_bytes(data[:end])
        with pytest.raises(ConfigError, match="expected a program of Paddle"):
            read_program(path)
    for _ in range(25):
        damaged = bytearray(data)
        for place in rng.sample(range(len(data)), 20):
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_program(path).shapes
        except ConfigError as error:
            assert str(error).startswith(f"{path}: expected a program of Paddle")


def test_names_of_layers_are_arrays_names(exported):
    info = exported / "inference.pdiparams.info"
    table = pickle.loads(info.read_bytes())
    for change, message in (
        ({"structured_name": "base_model.backbone.conv1.bn.bias"}, "base_model.backbone.conv1.bn."
         "bias: expected once, got it for batch_norm2d_0.w_0 too"),
        ({}, "expected a printable name of an array, got NoneType"),
        ({"structured_name": Calls(canary, ())}, refused(f"asks for {__name__}.canary")),
    ):  # fmt: skip
        info.write_bytes(pickle.dumps({**table, "batch_norm2d_0.w_0": change}))
        with pytest.raises(ConfigError) as error:
            read_pdiparams(exported / "inference.pdiparams")
        assert str(error.value) == f"{info}: {message}"
    assert EXECUTED == []
