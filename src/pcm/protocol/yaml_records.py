"""Kinds made of keys: records, records that are told apart by their first key, and the short form of a record.

Serves step 1 (`package.yaml`), beside `yaml_kinds`. Every unknown key is refused with the key that was perhaps meant, because a
misspelt key that is ignored would be a condition that silently does not hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pcm.model.errors import RequestError
from pcm.protocol.yaml_kinds import FAILED, Kind, Reading, Schema, Text, join, meant, spoken
from pcm.protocol.yaml_tree import Mapping as MappingNode
from pcm.protocol.yaml_tree import Node, Scalar

NOT_YET = "this version of the service does not do this yet"


@dataclass(frozen=True)
class Key:
    """One key of a record: the kind of its value, and what it is for (shown by editors)."""

    kind: Kind
    about: str
    required: bool = False


@dataclass(frozen=True)
class Record:
    """A mapping with known keys.

    Args:
        name: What it is, for messages (`a program`) and for the schema.
        keys: Its keys.
        build: Makes the value from what was read (absent keys are absent); may refuse by RequestError, ValueError or
            msgspec.ValidationError.
        aliases: Words that people try, and the key they mean.
        later: Keys that the signed format has and that nothing acts on yet: refused, with what they will be for (KB Q154931).
    """

    name: str
    keys: Mapping[str, Key]
    build: Callable[[dict[str, Any]], Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    later: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"a mapping with {', '.join(key for key, known in self.keys.items() if known.required) or 'keys'}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if not isinstance(node, MappingNode):
            return reading.refuse(node, key, self.expected)
        values: dict[str, Any] = {}
        guessed: list[str] = []
        failed = False
        for word, (name, value) in node.entries.items():
            path = join(key, word)
            reading.places[path] = (name.line, name.column)
            known = self.keys.get(word)
            if word in self.later:
                place = (name.line, name.column)
                reading.note(place, path, f"{NOT_YET} ({self.later[word]})", f"no key {word!r}")
                failed = True
                continue
            if known is None:
                guess = meant(word, tuple(self.keys), self.aliases)
                place = (name.line, name.column)
                reading.note(place, key, f"unknown key {word[:60]!r}", f"one of {', '.join(self.keys)}", guess)
                guessed.append(guess)
                failed = True
                continue
            values[word] = known.kind.read(value, path, reading)
            failed = failed or values[word] is FAILED
        for word, known in self.keys.items():
            if not known.required or word in values:
                continue
            failed = True
            if not any(repr(word) in guess for guess in guessed):  # else it was told already, as a misspelling
                found = f"{self.name} without {word!r}"
                reading.note((node.line, node.column), key, found, f"{word}: {known.kind.expected}")
        if failed:
            return FAILED
        try:
            return self.build(values)
        except (RequestError, ValueError, msgspec.ValidationError) as error:
            return reading.note((node.line, node.column), key, spoken(error), "")

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """See `Kind`."""
        name = self.name.removeprefix("a ").removeprefix("an ").replace(" ", "_")
        if name not in definitions:
            definitions[name] = {}  # stands before its keys are read: a detection contains detections
            definitions[name] = {
                "type": "object",
                "additionalProperties": False,
                "required": [word for word, known in self.keys.items() if known.required],
                "properties": {
                    word: known.kind.schema(definitions) | {"description": known.about}
                    for word, known in self.keys.items()
                },
            }
        return {"$ref": f"#/$defs/{name}"}


@dataclass(frozen=True)
class ByFirstKey:
    """One of several records; each is known by a key of its own: `{dpkg: jq}` or `{file: /usr/bin/jq}`."""

    name: str
    records: Mapping[str, Record]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"{self.name} by one of {', '.join(self.records)}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if not isinstance(node, MappingNode):
            return reading.refuse(node, key, self.expected)
        leaders = [word for word in node.entries if word in self.records]
        if len(leaders) == 1:
            return self.records[leaders[0]].read(node, key, reading)
        if leaders:
            second = node.at(leaders[1])
            return reading.note(
                second, key, f"both {leaders[0]!r} and {leaders[1]!r}", "one of them", "combine with all or any"
            )
        hint = next((guess for word in node.entries if (guess := meant(word, tuple(self.records), self.aliases))), "")
        found = f"{self.name} with the keys {', '.join(node.entries)[:100]}" if node.entries else "an empty mapping"
        return reading.note((node.line, node.column), key, found, f"one of {', '.join(self.records)}", hint)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """See `Kind`."""
        name = self.name.removeprefix("a ").replace(" ", "_")
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = {"oneOf": [record.schema(definitions) for record in self.records.values()]}
        return {"$ref": f"#/$defs/{name}"}


@dataclass(frozen=True)
class Short:
    """A record, or only the text of its first key: `jq` for `{package: jq}`."""

    text: Text
    record: Record
    expand: Callable[[str], Any]

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return f"{self.text.expected}, or {self.record.expected}"

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        if isinstance(node, Scalar) and not node.empty:
            text = self.text.read(node, key, reading)
            return FAILED if text is FAILED else self.expand(text)
        return self.record.read(node, key, reading)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """See `Kind`."""
        return {"anyOf": [self.text.schema(definitions), self.record.schema(definitions)]}


@dataclass(frozen=True)
class Later:
    """A kind that is defined further down: what a detection inside a detection is."""

    kind: Callable[[], Kind]

    @property
    def expected(self) -> str:
        """See `Kind`."""
        return self.kind().expected

    def read(self, node: Node, key: str, reading: Reading) -> Any:
        """See `Kind`."""
        return self.kind().read(node, key, reading)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """See `Kind`."""
        return self.kind().schema(definitions)
