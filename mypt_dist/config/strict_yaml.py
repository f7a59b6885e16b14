"""YAML for a user's own run file: 1.2 numbers (``3e-5`` is one), no key twice, no Python objects, no alias bombs."""

import re
from typing import Any

import yaml

from mypt_dist.config.strict_json import check_whole, unique_keys
from mypt_dist.errors import ConfigError

MAX_VALUES = 100_000
"""Of one file. Ten lines of aliases can stand for 10^10 values, which fill the memory once they are written out."""


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, which reads ``3e-5`` as a string."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        try:
            unique_keys([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        except (ValueError, TypeError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


def parse_yaml(text: str, where: str) -> Any:
    """The value of ``text``. ``where`` names its origin in the message of a `ConfigError`."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
        _check_size(value, {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{where} is not valid YAML: it is nested too deeply, or within itself") from None
    except ValueError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None
    return value


def _check_size(value: Any, known: dict[int, int]) -> int:
    """How many values ``value`` stands for, aliases written out; each is visited once. Raises ValueError."""
    if isinstance(value, int):
        check_whole(value)
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_check_size(part, known) for part in parts)
        if known[id(value)] > MAX_VALUES:
            raise ValueError(f"it stands for more than {MAX_VALUES:,} values")
    return known[id(value)]
