"""Reading the sections of another system's config, so that no key of it is overlooked."""

from collections.abc import Iterable, Mapping
from typing import Any

from keras_featx.errors import ConfigError


def section_of(tree: dict, key: str, path: str = "") -> dict[str, Any]:
    """Take a section out of a tree, as a dict of its own; empty where there is none."""
    section = tree.pop(key, None)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        where = f"{path}.{key}" if path else key
        raise ConfigError(f"{where}: expected keys and values, got {section!r}")
    return dict(section)


def required(section: dict, key: str, path: str) -> Any:
    """Take what a section cannot do without."""
    if section.get(key) is None:
        raise ConfigError(f"{path}.{key}: missing")
    return section.pop(key)


def parts_of(section: dict, key: str, path: str) -> list[Any]:
    """Take a list out of a section; empty where there is none."""
    parts = section.pop(key, None)
    if not isinstance(parts, list | None):
        raise ConfigError(f"{path}.{key}: expected a list, got {parts!r}")
    return parts or []


def one_key(part: Any, path: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of ``{Name: {argument: value}}``."""
    if not isinstance(part, Mapping) or len(part) != 1:
        raise ConfigError(f"{path}: expected {{Name: {{...}}}}, got {part!r}")
    ((name, given),) = part.items()
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"{path}.{name}: expected keys and values, got {given!r}")
    return name, dict(given or {})


def drop(section: dict, keys: Iterable[str], path: str, notes: list[str]) -> None:
    """Take out what has no meaning here, and tell."""
    for key in keys:
        if key in section:
            section.pop(key)
            tell(notes, f"{path}.{key}" if path else key, "has no meaning here: left out")


def tell(notes: list[str], path: str, what: str) -> None:
    """Note what became of a key."""
    notes.append(f"{path}: {what}")


def leftover(section: Mapping[str, Any], path: str) -> None:
    """Refuse what nobody took."""
    for key, value in section.items():
        where = f"{path}.{key}" if path else key
        raise ConfigError(f"{where}: no counterpart here, got {value!r}")


def refused(path: str, expected: Any, *got: Any) -> ConfigError:
    """What is to be raised on a value that has no counterpart."""
    came = f", got {got[0]!r}" if got else ""
    return ConfigError(f"{path}: expected {expected}{came}")
