"""Kinds of values in a description written by people: how each is read from the tree, what it expects, and its JSON Schema.

Serves step 1 (`package.yaml`): after `yaml_tree`, before `package_yaml`, which says which key is of which kind. A kind notes
every mistake and goes on, so that one look shows all of them. Reader and schema come from the same table and cannot disagree.
Text is never guessed: a plain `1.10` is a number only where a number is expected.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from pcm.model.errors import RequestError
from pcm.protocol.durations import parse_duration, show_duration
from pcm.protocol.yaml_tree import Mapping as MappingNode
from pcm.protocol.yaml_tree import Node, Problem, Scalar, show
from pcm.protocol.yaml_tree import Sequence as SequenceNode

FAILED: Final[Any] = object()
"""What a kind gives when it has noted a mistake."""

Schema = dict[str, Any]
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_SIZE = re.compile(r"(\d{1,12})(?:\.([0-9]{1,6}))? ?(B|[KMGT]B|[KMGT]iB)")
_UNITS = {"B": 1} | {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}


@dataclass
class Reading:
    """One file being read: the mistakes so far, and where each key path stands."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, place: tuple[int, int], key: str, found: str, expected: str, hint: str = "") -> Any:
        """Keep one mistake.

        Returns:
            `FAILED`.
        """
        self.problems.append(Problem(self.file, *place, key, found, expected, hint))
        return FAILED

    def refuse(self, node: Node, key: str, expected: str, hint: str = "") -> Any:
        """Keep the mistake that a node is not what was expected. Returns `FAILED`."""
        return self.note((node.line, node.column), key, f"found {show(node)}", expected, hint)


class Kind(Protocol):
    """What a value must be."""

    @property
    def expected(self) -> str:
        """In a few words, for messages."""

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """The value, or `FAILED` after noting why."""

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """JSON Schema (2020-12); named records go into `definitions`."""


@dataclass(frozen=True)
class Text:
    """A text, which `check` may refuse (RequestError or ValueError)."""

    expected: str = "a text"
    max_length: int = 400
    min_length: int = 1
    check: Callable[[str], object] | None = None
    pattern: str | None = None  # for editors

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if not isinstance(node, Scalar) or node.empty:
            return reading.refuse(node, key, self.expected)
        if not self.min_length <= len(node.text) <= self.max_length:
            found = f"a text of {len(node.text)} characters"
            return reading.note((node.line, node.column), key, found, f"{self.min_length} to {self.max_length}")
        try:
            if self.check is not None:
                self.check(node.text)
        except (RequestError, ValueError) as error:
            return reading.note((node.line, node.column), key, str(error).rstrip("."), "")
        return node.text

    def schema(self, definitions: dict[str, Schema]) -> Schema:  # noqa: ARG002
        """See `Kind`. Numbers are allowed too, since an editor reads a plain `1.10` as one."""
        made: Schema = {"type": ["string", "number"], "maxLength": self.max_length}
        if self.min_length:
            made["minLength"] = self.min_length
        return made | ({"pattern": self.pattern} if self.pattern else {})


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if isinstance(node, Scalar) and node.text in self.words:
            return node.text
        return reading.refuse(
            node, key, self.expected, meant(node.text, self.words) if isinstance(node, Scalar) else ""
        )

    def schema(self, definitions: dict[str, Schema]) -> Schema:  # noqa: ARG002
        """See `Kind`."""
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Flag:
    """`true` or `false`."""

    expected: str = "true or false"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if isinstance(node, Scalar) and node.plain and node.text in {"true", "false"}:
            return node.text == "true"
        spelt = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        word = spelt.get(node.text.lower(), node.text.lower()) if isinstance(node, Scalar) else ""
        return reading.refuse(node, key, self.expected, f"write {word}" if word in {"true", "false"} else "")

    def schema(self, definitions: dict[str, Schema]) -> Schema:  # noqa: ARG002
        """See `Kind`."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Number:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if not isinstance(node, Scalar) or _NUMBER.fullmatch(node.text) is None:
            return reading.refuse(node, key, self.expected)
        if not node.plain:
            return reading.refuse(node, key, self.expected, "remove the quotes")
        number = int(node.text)
        return number if self.low <= number <= self.high else reading.refuse(node, key, self.expected)

    def schema(self, definitions: dict[str, Schema]) -> Schema:  # noqa: ARG002
        """See `Kind`."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Duration:
    """A span of time such as `90s`, `20m`, `1h30m`. Read as seconds, at least 1."""

    max_s: int = 86_400

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"a time such as 20m or 1h30m, at most {show_duration(self.max_s)}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        seconds = parse_duration(node.text) if isinstance(node, Scalar) else None
        if seconds is not None and 1 <= seconds <= self.max_s:
            return seconds
        bare = isinstance(node, Scalar) and node.text.isdecimal()
        return reading.refuse(node, key, self.expected, "add a unit: s, m or h" if bare else "")

    def schema(self, definitions: dict[str, Schema]) -> Schema:  # noqa: ARG002
        """See `Kind`."""
        return {"type": "string", "pattern": r"^(?=\d)(\d+d)?(\d+h)?(\d+m)?(\d+s)?$"}


@dataclass(frozen=True)
class Size:
    """An amount of bytes such as `1.5 GB` (10⁹) or `200 MiB` (2²⁰). Read as bytes."""

    expected: str = "a size such as 1.5 GB or 200 MiB"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        size = parse_size(node.text) if isinstance(node, Scalar) else None
        if size is not None and size <= 2**53:
            return size
        bare = isinstance(node, Scalar) and node.text.isdecimal()
        return reading.refuse(node, key, self.expected, "add a unit: B, KB, MB, GB, KiB, …" if bare else "")

    def schema(self, definitions: dict[str, Schema]) -> Schema:  # noqa: ARG002
        """See `Kind`."""
        return {"type": "string", "pattern": r"^\d+(\.\d+)? ?([KMGT]i?)?B$"}


@dataclass(frozen=True)
class ListOf:
    """A list of `low` to `high` values of one kind. Read as a tuple."""

    item: Kind
    low: int = 0
    high: int = 64
    hint: str = ""

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"a list, each item {self.item.expected}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if not isinstance(node, SequenceNode):
            return reading.refuse(node, key, self.expected, self.hint)
        if not self.low <= len(node.items) <= self.high:
            found = f"a list of {len(node.items)} items"
            return reading.note((node.line, node.column), key, found, f"{self.low} to {self.high} items")
        values = []
        for index, item in enumerate(node.items):
            reading.places[f"{key}[{index}]"] = (item.line, item.column)
            values.append(self.item.read(item, f"{key}[{index}]", reading))
        return FAILED if any(value is FAILED for value in values) else tuple(values)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """See `Kind`."""
        return {"type": "array", "items": self.item.schema(definitions), "minItems": self.low, "maxItems": self.high}


@dataclass(frozen=True)
class MapOf:
    """Names, and for each a value of one kind. Read as a dictionary in the order of the file."""

    name: Text
    value: Kind
    low: int = 0
    high: int = 64
    expected: str = "a mapping"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if not isinstance(node, MappingNode):
            return reading.refuse(node, key, self.expected)
        if not self.low <= len(node.entries) <= self.high:
            found = f"a mapping of {len(node.entries)} entries"
            return reading.note((node.line, node.column), key, found, f"{self.low} to {self.high}")
        values = {}
        for word, (name, value) in node.entries.items():
            path = join(key, word)
            reading.places[path] = (name.line, name.column)
            checked = self.name.read(name, path, reading)
            read = self.value.read(value, path, reading)
            values[word] = FAILED if checked is FAILED else read
        return FAILED if any(value is FAILED for value in values.values()) else values

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """See `Kind`."""
        names: Schema = {"pattern": self.name.pattern} if self.name.pattern else {}
        return {
            "type": "object",
            "propertyNames": names | {"maxLength": self.name.max_length},
            "additionalProperties": self.value.schema(definitions),
            "minProperties": self.low,
            "maxProperties": self.high,
        }


def join(key: str, word: str) -> str:
    """The path of a key inside another: `programs.install`."""
    return f"{key}.{word}" if key else word


def meant(word: str, words: tuple[str, ...], aliases: Mapping[str, str] | None = None) -> str:
    """Guess what somebody wanted to write: "did you mean 'command'?", or nothing."""
    close = (aliases or {}).get(word.lower()) or next(
        iter(difflib.get_close_matches(word.lower()[:60], words, 1, 0.6)), None
    )
    return f"did you mean {close!r}?" if close else ""


def parse_size(text: str) -> int | None:
    """Bytes of `1.5 GB`, rounded down, or None."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    whole, fraction, unit = match.group(1), match.group(2) or "", _UNITS[match.group(3)]
    size: int = int(whole + fraction) * unit // 10 ** len(fraction)
    return size


def spoken(error: Exception) -> str:
    """A mistake that a value's own rules found, as it reads inside our message."""
    text = str(error).partition(" - at `")[0].rstrip(".")
    return text[:300] if not isinstance(error, msgspec.ValidationError) else f"not allowed: {text[:300]}"
