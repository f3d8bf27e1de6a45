"""The secret that lets a request change the gallery. Imports no framework."""

import hmac
import os
import re
from pathlib import Path

from keras_featx.errors import ConfigError
from keras_featx.serving.refusals import Refused

OPTION = "--gallery-token-file"
LEAST = 16
_SCHEME = "Bearer"


def read_token(path: str | os.PathLike) -> str:
    """The token in a file, which is all that is in it.

    Args:
        path: Of a file that others should not be able to read.

    Raises:
        ConfigError: If it cannot be read, is too short, or could not be sent in a header.
    """
    try:
        token = Path(path).read_bytes().strip().decode("ascii")
    except OSError as error:
        raise ConfigError(f"{OPTION} {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        token = " "
    if not re.fullmatch(r"[!-~]*", token):
        raise ConfigError(f"{OPTION} {path}: expected one word of ASCII, without blanks")
    if len(token) < LEAST:
        raise ConfigError(
            f"{OPTION} {path}: expected a token of at least {LEAST} characters, got {len(token)}"
        )
    return token


def check_authorized(header: str | None, token: str | None) -> None:
    """Refuse who may not change the gallery.

    Args:
        header: ``Authorization`` of the request.
        token: That the server was started with.

    Raises:
        Refused: 403 if nobody may, 401 without the token.

    Example:
        >>> from keras_featx.serving.tokens import check_authorized
        >>> check_authorized("Bearer 0123456789abcdef", "0123456789abcdef")
        >>> check_authorized(None, "0123456789abcdef")
        Traceback (most recent call last):
        keras_featx.serving.refusals.Refused: Changes need the header Authorization: Bearer TOKEN
    """
    if token is None:
        raise Refused(403, f"The gallery is read only: start with {OPTION} FILE to change it")
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != _SCHEME.lower():
        raise Refused(401, f"Changes need the header Authorization: {_SCHEME} TOKEN", _challenge())
    # Takes as long whatever is wrong in it.
    if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode()):
        raise Refused(
            401, "The token is another than the server's", _challenge(', error="invalid_token"')
        )


def _challenge(more: str = "") -> dict[str, str]:
    return {"WWW-Authenticate": f'{_SCHEME} realm="gallery"{more}'}
