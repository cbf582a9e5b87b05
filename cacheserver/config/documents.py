"""YAML files of ours, read as text with line numbers: every value stays what was written, so flags and files agree.

For what an operator writes (configuration, Repository manifests), never for catalogs. Refuses unknown keys, duplicate
keys and files over 1 MiB. Uses the pure Python loader: nesting without end raises there instead of crashing.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import yaml

from cacheserver.errors import ConfigError
from cacheserver.slotted import slotted

MAX_FILE_BYTES = 1 << 20
_TAG = "tag:yaml.org,2002:"
_SHOWN_CHARACTERS = 80  # of a value that a message repeats: enough to find it


@slotted(frozen=True)
class Value:
    """One YAML node and where it is: `FILE:LINE (PATH.OF.KEYS)`; PATH.OF.KEYS alone for one from_object."""

    file: Path
    keys: tuple[str, ...]
    node: yaml.Node

    @property
    def origin(self) -> str:
        """Where it is, for messages; see the class."""
        if self.node.start_mark is None:
            return ".".join(self.keys) or str(self.file)
        where = f"{self.file}:{self.node.start_mark.line + 1}"
        return f"{where} ({'.'.join(self.keys)})" if self.keys else where

    def error(self, message: str) -> ConfigError:
        """An error to raise that says where this value stands."""
        return ConfigError(f"{self.origin}: {message}")

    def text(self) -> str:
        """The scalar as written, quotes taken off. Raises: ConfigError for what is not a scalar, or null."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error("a single value is needed here")
        if self.node.tag == _TAG + "null":
            raise self.error("has no value; leave the key out to use its default")
        return str(self.node.value)

    def items(self) -> list[Value]:
        """The elements of a list; a single value stands for a list of one. Raises: ConfigError for a mapping."""
        if isinstance(self.node, yaml.ScalarNode):
            return [self]
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("a list is needed here")
        return [Value(self.file, self.keys, node) for node in self.node.value]

    def members(self, known: Collection[str] | None = None) -> Mapping[str, Value]:
        """The keys of a mapping. known: the keys that are allowed; None allows any.

        Raises: ConfigError for what is not a mapping, and for a key that is not known or is given twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"{self._shown()} is given where keys are needed{_listed(known)}")
        found: dict[str, Value] = {}
        for key_node, node in self.node.value:
            key = Value(self.file, self.keys, key_node).text()
            member = Value(self.file, (*self.keys, key), node)
            if key in found:
                raise Value(self.file, self.keys, key_node).error(f"the key {key!r} is given twice")
            if known is not None and key not in known:
                raise Value(self.file, self.keys, key_node).error(_unknown(key, known))
            found[key] = member
        return found

    def _shown(self) -> str:
        """What is given instead of a mapping, in a few words."""
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        return "nothing" if self.node.tag == _TAG + "null" else repr(str(self.node.value)[:_SHOWN_CHARACTERS])

    def require(self, wanted: Mapping[str, str]) -> None:
        """Raises ConfigError unless each key has exactly this text: the document may be of quite another kind."""
        found = self.members()
        for key, text in wanted.items():
            if key not in found or found[key].text() != text:
                raise found.get(key, self).error(f"{key}: {text} is needed here")


def read_documents(path: Path) -> Iterator[Value]:
    """Every document of a YAML (or JSON) file that is not empty, in order. Raises: ConfigError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is larger than 1 MiB; is it the right file?")
    try:
        nodes = list(yaml.compose_all(content, yaml.SafeLoader))
    except yaml.YAMLError as exc:
        # The library's text spreads over several lines; the place and the problem fit one.
        mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{where}: is not YAML: {problem or exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: is nested too deeply") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text") from exc
    for node in nodes:
        if node is not None and node.tag != _TAG + "null":
            yield Value(path, (), node)


def from_object(content: Mapping[str, object], name: str) -> Value:
    """What JSON says, as if it stood in a file: one set of rules for both. `name` stands for the file in errors.

    Raises: ConfigError for what is nested too deeply.
    """
    try:
        return Value(Path(name), (), _node(content))
    except RecursionError as exc:
        raise ConfigError(f"{name}: is nested too deeply") from exc


def _node(value: object) -> yaml.Node:
    """The node that a YAML file with this value gives; without a mark, since it is on no line."""
    if isinstance(value, Mapping):
        return yaml.MappingNode(_TAG + "map", [(_node(str(key)), _node(member)) for key, member in value.items()])
    if isinstance(value, list):
        return yaml.SequenceNode(_TAG + "seq", [_node(member) for member in value])
    if value is None:
        return yaml.ScalarNode(_TAG + "null", "")
    return yaml.ScalarNode(_TAG + "str", str(value).lower() if isinstance(value, bool) else str(value))


def _listed(known: Collection[str] | None) -> str:
    return f": {', '.join(known)}" if known else " with a value each"


def _unknown(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {key!r}; {hint}"
