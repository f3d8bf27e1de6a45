"""What a server is told. Imports no framework, so that a wrong option is answered at once."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_featx.errors import ConfigError
from keras_featx.search_backends import cores


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, and how long it may take.

    Attributes:
        body: Bytes of a request's body; of all requests at once, four times as many.
        images: Images of a request.
        pixels: Of an image, by its header, before anything of it is decoded.
        queue: Images of all requests that wait for a worker.
        timeout: Seconds from the first byte of a body to the answer.
    """

    body: int = 32 * 2**20
    images: int = 64
    pixels: int = 50_000_000
    queue: int = 256
    timeout: float = 30.0

    @property
    def bodies(self) -> int:
        """Bytes of the bodies of all requests at once."""
        return 4 * self.body

    def check(self) -> None:
        """Refuse limits under which nothing could be answered."""
        for option, value in (
            ("--max-body", self.body),
            ("--max-images", self.images),
            ("--max-pixels", self.pixels),
            ("--timeout", self.timeout),
        ):
            if not 0 < value < math.inf:
                raise ConfigError(f"{option}: expected a positive number, got {value:g}")
        if self.queue < self.images:
            raise ConfigError(
                f"--queue: expected at least --max-images ({self.images}), got {self.queue}"
            )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to serve, where and how.

    Attributes:
        folder: An export folder, or a folder of numbered ones.
        model: The name of the file in it; by default ``model.tflite``, else ``model.onnx``.
        name: Of the model, in addresses.
        labels: From labels to versions.
        host: Address or name to listen at.
        port: 0 takes a free one.
        threads: Workers; each has an interpreter of its own.
        gallery: To search in: the folder of one, or an ``.npz`` file of ``keras-featx predict``.
        gallery_token_file: Has the token of those who may change the gallery.
        limits: Of requests.

    Example:
        >>> from keras_featx.serving.options import Options
        >>> Options(folder="output/inference").port
        8501
    """

    folder: str | os.PathLike
    model: str | None = None
    name: str = "embedder"
    labels: dict[str, int] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8501
    threads: int = field(default_factory=cores)
    gallery: str | os.PathLike | None = None
    gallery_token_file: str | os.PathLike | None = None
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Refuse impossible values.

        Raises:
            ConfigError: With the option, what was expected and what came.
        """
        if not Path(self.folder).is_dir():
            raise ConfigError(f"FOLDER: expected a folder, got {str(self.folder)!r}")
        if not re.fullmatch(r"[^/:\s]+", self.name):
            raise ConfigError(
                f"--name: expected a word without '/', ':' and blanks, got {self.name!r}"
            )
        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port: expected 0 to 65535, got {self.port}")
        if self.threads < 1:
            raise ConfigError(f"--threads: expected at least 1, got {self.threads}")
        if self.model is not None:
            _check_model(self.model)
        self._check_gallery()
        self.limits.check()

    @property
    def gallery_on_disk(self) -> bool:
        """Whether the gallery is a folder, which can be changed."""
        if self.gallery is None:
            return False
        return Path(self.gallery).is_dir() or not Path(self.gallery).suffix

    def _check_gallery(self) -> None:
        name = "nothing" if self.gallery is None else repr(str(self.gallery))
        if self.gallery_on_disk:
            return
        if self.gallery is not None and Path(self.gallery).suffix != ".npz":
            raise ConfigError(f"--gallery: expected a name ending in .npz, got {name}")
        if self.gallery_token_file is not None:
            raise ConfigError(
                f"--gallery-token-file: expected --gallery with the folder of one, got {name}"
            )


def _check_model(model: str) -> None:
    if Path(model).name != model or Path(model).suffix not in (".tflite", ".onnx"):
        raise ConfigError(
            f"--model: expected the name of a .tflite or .onnx file in FOLDER, got {model!r}"
        )


def add_arguments(command) -> None:
    """The arguments of ``keras-featx serve``, for an ``argparse`` parser."""
    default, limits = Options(folder=""), Limits()
    add = command.add_argument
    add("folder", metavar="FOLDER", help="an export folder, or one with a folder for each version")
    add(
        "--model", metavar="FILE", help="which .tflite or .onnx of the folder (default: "
        "model.tflite, else model.onnx)",
    )  # fmt: skip
    add("--name", default=default.name, help="of the model, in addresses (default: %(default)s)")
    add(
        "--label", action="append", default=[], metavar="LABEL=VERSION",
        help="such as stable=1; repeatable",
    )  # fmt: skip
    add("--host", default=default.host, help="default: %(default)s")
    add("--port", type=int, default=default.port, help="0 takes a free one (default: %(default)s)")
    add("--threads", type=int, default=default.threads, help="workers (default: one a core)")
    add(
        "--gallery", metavar="GALLERY", help="the folder of one, or the FILE.npz that "
        "`keras-featx predict --output` wrote, for /v1/search",
    )  # fmt: skip
    add(
        "--gallery-token-file", metavar="FILE", help="lets requests with the token in it change "
        "the gallery in its folder",
    )  # fmt: skip
    add(
        "--queue", type=int, default=limits.queue, metavar="IMAGES",
        help="that may wait for a worker; more are answered 503 (default: %(default)s)",
    )  # fmt: skip
    add(
        "--timeout", type=float, default=limits.timeout, metavar="SECONDS",
        help="of a request (default: %(default)g)",
    )  # fmt: skip
    add(
        "--max-body", type=float, default=limits.body / 2**20, metavar="MIB",
        help="of a request (default: %(default)g)",
    )  # fmt: skip
    add(
        "--max-images", type=int, default=limits.images, metavar="IMAGES",
        help="of a request (default: %(default)s)",
    )  # fmt: skip
    add(
        "--max-pixels", type=float, default=limits.pixels / 1e6, metavar="MEGAPIXELS",
        help="of an image (default: %(default)g)",
    )  # fmt: skip


def from_arguments(arguments) -> Options:
    """The options of a parsed command line, checked."""
    limits = Limits(
        body=_whole("--max-body", arguments.max_body, 2**20),
        images=arguments.max_images,
        pixels=_whole("--max-pixels", arguments.max_pixels, 10**6),
        queue=arguments.queue,
        timeout=arguments.timeout,
    )
    options = Options(
        **{key: getattr(arguments, key) for key in ("folder", "model", "name", "host", "port")},
        labels=_labels(arguments.label),
        threads=arguments.threads,
        gallery=arguments.gallery,
        gallery_token_file=arguments.gallery_token_file,
        limits=limits,
    )
    options.check()
    return options


def _whole(option: str, value: float, unit: int) -> int:
    if not 0 < value < math.inf:
        raise ConfigError(f"{option}: expected a positive number, got {value:g}")
    return max(int(value * unit), 1)


def _labels(given: Sequence[str]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for text in given:
        label, equals, version = text.partition("=")
        if not equals or not re.fullmatch(r"[^/:\s]+", label) or not version.isdecimal():
            raise ConfigError(f"--label {text}: expected LABEL=VERSION, such as stable=1")
        if label in labels:
            raise ConfigError(f"--label {text}: {label} is {labels[label]} already")
        labels[label] = int(version)
    return labels
