"""Load, override, validate and dump configs.

A config is YAML in the reference system's sections and key names; behind it stand the frozen
dataclasses of :mod:`keras_featx.sections`. Unknown keys, wrong types and impossible values are
refused with the key's full path. The arguments of pluggable parts (``{name: LCNet, scale: 2.5}``)
are checked against the signature of the function or layer that builds them
(:mod:`keras_featx.components`). Nothing here imports a framework, so a mistake is answered at
once.
"""

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from keras_featx import components
from keras_featx.errors import ConfigError
from keras_featx.sections import Component, Config


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML config, apply ``key=value`` overrides, validate.

    Args:
        path: A YAML file.
        overrides: Such as ``"Global.epochs=1"``; the value is YAML, a bare key means
            ``Global``'s, a number in the key is a list index.

    Returns:
        The config, with every default filled in.

    Raises:
        ConfigError: With the key's full path, what was expected and what came.

    Example:
        >>> import keras_featx
        >>> config = keras_featx.load_config("configs/grocery_lcnet_x0_5.yaml", ["epochs=1"])
        >>> config.Global.epochs
        1
    """
    return from_dict(apply_overrides(read_yaml(path), overrides))


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """The sections of a YAML file, as they stand there."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: expected a readable YAML file: {reason}") from None
    tree = parse_yaml(text, str(path))
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as Global and Arch, got {tree!r}")
    return tree


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Validate a nested dict as YAML would give it, and fill in defaults.

    Example:
        >>> from keras_featx.config import from_dict
        >>> from_dict({"Arch": {"image_size": [64, 64]}}).Arch.image_size
        (64, 64)
    """
    return _convert(tree, Config, "")


def to_dict(config: Config) -> dict:
    """The config as plain dicts, lists and scalars, every default spelled out."""
    return _plain(config)


def dump_config(config: Config) -> str:
    """The config as YAML that loads back equal."""
    return yaml.safe_dump(_plain(config), sort_keys=False, default_flow_style=None, width=96)


def apply_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict:
    """A copy of the tree with ``key=value`` strings applied."""
    tree = _copy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"-o {override}: expected KEY=VALUE, such as Global.epochs=1")
        keys = key.strip().split(".")
        if len(keys) == 1 and keys[0] not in _names(Config):
            keys = ["Global", *keys]
        value = parse_yaml(text, f"-o {override}")
        node: Any = tree
        for depth, part_of_key in enumerate(keys[:-1]):
            node = _descend(node, part_of_key, ".".join(keys[:depth]), override)
        _assign(node, keys[-1], value, ".".join(keys[:-1]), override)
    return tree


def _descend(node: Any, key: str, path: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, path, override)]
    if node.get(key) is None:
        node[key] = {}
    if not isinstance(node[key], dict | list):
        raise ConfigError(f"-o {override}: {_join(path, key)} is {node[key]!r}, not a section")
    return node[key]


def _assign(node: Any, key: str, value: Any, path: str, override: str) -> None:
    if isinstance(node, list):
        node[_index(node, key, path, override)] = value
    else:
        node[key] = value


def _index(node: list, key: str, path: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ConfigError(
            f"-o {override}: {path} is a list: expected an index from 0 to {len(node) - 1}, "
            f"got {key!r}"
        )
    return int(key)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: ``1e-3`` is a number and a key stands once."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"expected a name as key, got {key!r}", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice", key_node.start_mark
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML safely; errors name the source and the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: expected YAML: {str(error).splitlines()[0]}") from None


def _convert(value: Any, cls: type, path: str) -> Any:
    """A mapping into a dataclass, strictly; one that is there already is only checked."""
    if isinstance(value, cls):
        if hasattr(value, "check"):
            value.check(path)
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path or 'config'}: expected a section, got {value!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    inline = next((f.name for f in fields.values() if f.metadata.get("inline")), None)
    if hasattr(cls, "upgrade"):
        value = cls.upgrade(value)
    arguments: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, item in value.items():
        where = _join(path, key)
        if key in fields and key != inline:
            arguments[key] = _convert_field(item, fields[key], hints[key], where)
        elif inline:
            rest[key] = item
        else:
            raise ConfigError(f"{where}: unknown key{components.closest(key, list(fields))}")
    if inline:
        if "name" not in rest and not _required(fields[inline]):
            rest = {**fields[inline].default_factory().to_dict(), **rest}
        arguments[inline] = _component(rest, fields[inline].metadata["kind"], path, list(fields))
    for name, f in fields.items():
        if _required(f) and name not in arguments:
            raise ConfigError(f"{_join(path, name)}: missing")
    result = cls(**arguments)
    if hasattr(result, "check"):
        result.check(path)
    return result


def _convert_field(value: Any, declared: dataclasses.Field, hint: Any, path: str) -> Any:
    kind = declared.metadata.get("kind")
    if kind is None:
        return coerce(value, hint, path)
    if declared.metadata["many"]:
        if value is None:
            value = []
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        return tuple(_component(v, kind, f"{path}.{i}") for i, v in enumerate(value))
    if value is None and type(None) in typing.get_args(hint):
        return None
    return _component(value, kind, path)


def _component(value: Any, kind: str, path: str, also: Iterable[str] = ()) -> Component:
    """Check a part's name and arguments against its builder's signature."""
    if isinstance(value, Component):
        value = value.to_dict()
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping) and "name" not in value and len(value) == 1:
        # The reference's spelling of lists: `- CELoss: {weight: 1.0}`.
        ((name, arguments),) = value.items()
        if isinstance(arguments, Mapping | None):
            value = {"name": name, **(arguments or {})}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected {{name: ..., ...}}, got {value!r}")
    if not isinstance(value.get("name"), str):
        raise ConfigError(f"{path}.name: missing")
    schema = components.parameters(kind, value["name"], path)
    arguments = {}
    for key, item in value.items():
        if key == "name":
            continue
        if key not in schema:
            near = components.closest(key, [*schema, *also])
            raise ConfigError(f"{path}.{key}: unknown argument of {value['name']}{near}")
        arguments[key] = coerce(item, schema[key].annotation, f"{path}.{key}")
    for parameter in schema.values():
        if parameter.default is components.REQUIRED and parameter.name not in arguments:
            raise ConfigError(f"{path}.{parameter.name}: missing")
    return Component(name=value["name"], args=arguments)


def coerce(value: Any, hint: Any, path: str) -> Any:
    """Check a value against a type annotation. Only int to float and list to tuple convert."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _convert(value, hint, path)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        real = [o for o in options if o is not type(None)]
        for option in real[:-1]:
            try:
                return coerce(value, option, path)
            except ConfigError:
                continue
        return coerce(value, real[-1], path)
    if origin is Literal:
        if value not in options or isinstance(value, bool):
            near = components.closest(value, list(options))
            raise ConfigError(f"{path}: expected one of {list(options)}, got {value!r}{near}")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected {{name: ..., ...}}, got {value!r}")
        return {str(key): coerce(item, options[1], _join(path, key)) for key, item in value.items()}
    if origin is tuple:
        return _coerce_tuple(value, options, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    return value


def _coerce_tuple(value: Any, options: tuple, path: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path}: expected a list, got {value!r}")
    if options[-1] is Ellipsis:
        options = (options[0],) * len(value)
    if len(value) != len(options):
        raise ConfigError(f"{path}: expected {len(options)} values, got {list(value)}")
    pairs = zip(value, options, strict=True)
    return tuple(coerce(v, o, f"{path}.{i}") for i, (v, o) in enumerate(pairs))


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return {k: _plain(v) for k, v in value.to_dict().items()}
    if dataclasses.is_dataclass(value):
        plain = {}
        for f in dataclasses.fields(value):
            item = _plain(getattr(value, f.name))
            plain.update(item if f.metadata.get("inline") else {f.name: item})
        return plain
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {k: _copy(v) for k, v in tree.items()}
    return [_copy(v) for v in tree] if isinstance(tree, list | tuple) else tree


def _required(declared: dataclasses.Field) -> bool:
    return declared.default is declared.default_factory is dataclasses.MISSING


def _names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)
