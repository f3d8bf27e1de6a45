"""A server from its start to its end."""

import importlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_featx.errors import ConfigError, RunError
from keras_featx.runtimes import open_networks
from keras_featx.serving.folders import Artefact, choose_labels, find_artefacts
from keras_featx.serving.gallery import load_gallery
from keras_featx.serving.options import Options
from keras_featx.serving.tokens import read_token

if TYPE_CHECKING:
    from keras_featx.serving.galleries import StoredGallery
    from keras_featx.serving.service import Service

log = logging.getLogger(__name__)

_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def serve(options: Options) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT; what is running then is finished.

    Args:
        options: What, where and how.

    Returns:
        ``{"requests": answered, "images": embedded, "seconds": served}``.

    Raises:
        ConfigError: On wrong options, a folder without a model, a gallery of another one.
        RunError: On a damaged model, an address that is in use, a missing package.
    """
    options.check()
    artefacts = find_artefacts(Path(options.folder), options.model)
    choose_labels(options.labels, artefacts)
    check_installed()
    with bind(options.host, options.port) as listener:
        service = open_service(options, artefacts)
        started = time.perf_counter()
        try:
            listener.listen(1024)
            log.info("%s", describe(service, artefacts, listener))
            from keras_featx.serving.app import make_app

            run(make_app(service), listener, options.limits.timeout)
        finally:
            service.stop()
    return {
        "requests": service.metrics.total("requests"),
        "images": service.metrics.total("images"),
        "seconds": round(time.perf_counter() - started, 1),
    }


def open_service(options: Options, artefacts: dict[int, Artefact]) -> "Service":
    """Open all versions and the gallery, and start the workers.

    Raises:
        ConfigError: On a gallery that does not fit the newest version.
        RunError: On a damaged file.
    """
    token = None
    if options.gallery_token_file is not None:
        token = read_token(options.gallery_token_file)
    # Before TensorFlow is there, which decodes, so that a bad file is told of at once.
    opened = {
        version: open_networks(one.path, one.arch.image_size, options.threads)
        for version, one in artefacts.items()
    }
    newest = max(artefacts)
    gallery: Any = None
    if options.gallery_on_disk:
        gallery = open_stored(Path(options.gallery), artefacts[newest])
    elif options.gallery is not None:
        gallery = load_gallery(Path(options.gallery), opened[newest].embedding_size)
        if gallery.fingerprint is not None:
            _warn_of_another(Path(options.gallery), gallery.fingerprint, artefacts[newest])
    from keras_featx.serving.embedder import make_embedder
    from keras_featx.serving.service import make_service

    embedders = {v: make_embedder(one, opened[v]) for v, one in artefacts.items()}
    return make_service(options, embedders, gallery, token)


def open_stored(folder: Path, artefact: Artefact) -> "StoredGallery":
    """Open a gallery on disk for a model.

    Raises:
        ConfigError: If there is none, or one of another model, with both fingerprints.
        RunError: If it is damaged.
    """
    from keras_featx.gallery.versions import Store

    Store(folder).read()  # before TensorFlow, too
    from keras_featx.serving.galleries import StoredGallery

    return StoredGallery(folder, _fingerprint(artefact))


def _fingerprint(artefact: Artefact) -> str:
    from keras_featx.extractors import open_extractor, read_model

    opener = read_model if artefact.path.suffix == ".tflite" else open_extractor
    return opener(artefact.path).fingerprint


def _warn_of_another(path: Path, fingerprint: str, artefact: Artefact) -> None:
    """A file may be of the same model in floats, and is served all the same."""
    try:
        served = _fingerprint(artefact)
    except ConfigError:  # of a file that says nothing of itself
        return
    if served != fingerprint:
        log.warning("%s: embeddings of the model %s, served is %s", path, fingerprint, served)


def check_installed() -> None:
    """Refuse to start without the packages of the extra."""
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise RunError(f"serve: {name} is missing: pip install 'keras_featx[serve]'") from None


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, so that one in use is known before a model is opened."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: expected an address: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = error.strerror.lower()
        raise RunError(f"--host {host} --port {port}: cannot listen there: {reason}") from None
    return listener


def describe(service: "Service", artefacts: dict[int, Artefact], listener: socket.socket) -> str:
    """The one line that a server logs when it begins."""
    from keras_featx.serving.instances import SIGNATURES

    options = service.options
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    labels = "".join(f", {label}={version}" for label, version in options.labels.items())
    files = ", ".join(str(one.path) for one in artefacts.values())
    return (
        f"serving {options.name} at http://{host}:{port}: versions "
        f"{', '.join(map(str, artefacts))}{labels}; signatures {', '.join(SIGNATURES)}; "
        f"{options.threads} threads; {files}{_gallery_words(service)}"
    )


def _gallery_words(service: "Service") -> str:
    if service.gallery is None:
        return ""
    how = "read only" if service.token is None else "changed by requests with the token"
    return f"; {service.options.gallery}: {len(service.gallery):,} items, {how}"


def run(app: Callable, listener: socket.socket, timeout: float) -> None:
    """Answer requests until a signal; then, for as long as a request may take, end what runs."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=math.ceil(timeout) + 1,
    )
    # uvicorn raises the signal once more when it is done; by then it has been obeyed. Only the main
    # thread is told of signals.
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {one: signal.signal(one, _obeyed) for one in signals}
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _obeyed(number: int, frame) -> None:
    """Nothing is left to do."""
