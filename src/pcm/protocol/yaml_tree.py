"""YAML text as a tree whose every node knows its line and column, with nothing guessed about types.

Serves step 1 (`package.yaml`): before `yaml_kinds`, which says what each value must be. `version: 1.10` stays the text "1.10" and
`no` stays "no", because plain scalars keep their spelling here. Size, depth, number of nodes and aliases are bounded while the
text is parsed, so no input costs more than it should (an alias counts as often as it is used). It never builds Python objects
from tags, and it reads no file.

Source: YAML 1.1, sections 3.2.1.3 (unique keys), 7.1 (aliases).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from pcm.model.errors import RequestError

MAX_BYTES = 256 * 2**10
MAX_DEPTH = 16
MAX_NODES = 20_000
MAX_ALIASES = 100
_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is (lines and columns from 1), what was found, what was expected, and perhaps what was meant."""

    file: str
    line: int
    column: int
    key: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " + (f"{self.key}: " if self.key else "")
        wanted = f"; expected {self.expected}" if self.expected else ""
        return f"{place}{self.found}{wanted}" + (f" ({self.hint})" if self.hint else "")


class DescriptionError(RequestError):
    """A description has mistakes; `problems` lists them all, in the order of the file."""

    default_code = "request.description"

    def __init__(self, problems: list[Problem]) -> None:
        # an alias shows the same mistake again at the same place
        self.problems = sorted(set(problems), key=lambda problem: (problem.file, problem.line, problem.column))
        count = len(self.problems)
        head = f"{problems[0].file} has {'one mistake' if count == 1 else f'{count} mistakes'}:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


@dataclass(frozen=True)
class Scalar:
    """A text, as it is spelt. `plain`: without quotes, so that it may also be a number or a boolean."""

    line: int
    column: int
    text: str
    plain: bool = True
    size: int = 1
    height: int = 1

    @property
    def empty(self) -> bool:
        """Whether nothing stands there (`key:`, `~` or `null`)."""
        return self.plain and self.text in {"", "~", "null"}


@dataclass
class Sequence:
    """A list of nodes."""

    line: int
    column: int
    items: list["Node"] = field(default_factory=list)
    size: int = 1
    height: int = 1


@dataclass
class Mapping:
    """Keys, each with where it stands, and their nodes, in the order of the file."""

    line: int
    column: int
    entries: dict[str, tuple[Scalar, "Node"]] = field(default_factory=dict)
    size: int = 1
    height: int = 1

    def at(self, key: str) -> tuple[int, int]:
        """Line and column of a key, or of the whole mapping if it has no such key."""
        place = self.entries[key][0] if key in self.entries else self
        return place.line, place.column


Node = Scalar | Sequence | Mapping


def show(node: Node) -> str:
    """What a node is, in a few words for a message."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.empty:
        return "nothing"
    shown = node.text if len(node.text) <= _SHOWN else node.text[:_SHOWN] + "…"
    return repr(shown)


def read_tree(data: bytes, file: str) -> Node:
    """Parse one YAML document.

    Args:
        data: UTF-8, at most 256 KB.
        file: Its name, for messages.

    Raises:
        DescriptionError: it is too long, no UTF-8, no YAML, empty, too deep, more than one document, or a key stands twice.
    """
    if len(data) > MAX_BYTES:
        found = f"the file is {len(data)} bytes long"
        raise DescriptionError([Problem(file, 1, 1, "", found, f"at most {MAX_BYTES} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise DescriptionError([Problem(file, line, column, "", "bytes that are not UTF-8", "text in UTF-8")]) from None
    builder = _Builder(file)
    try:
        return builder.build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        raise DescriptionError([*builder.problems, _syntax_problem(error, file)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character U+{ord(text[error.position]):04X}"
        raise DescriptionError([Problem(file, line, 1, "", found, "printable text")]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets impossible numbers in escapes and directives through to Python
        raise DescriptionError([Problem(file, 1, 1, "", f"this is not YAML: {error}", "")]) from None


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = (error.problem or error.context or "it cannot be read").replace("\n", " ")
    hint = "indent with spaces, not tabs" if r"'\t'" in what else ""
    if "mapping values are not allowed here" in what:
        hint = "put text with ': ' into quotes, and check the indentation"
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    return Problem(file, line, column, "", f"this is not YAML: {what}", "", hint)


class _Builder:
    """Turns the parser's events into nodes. Depth is bounded, so its recursion is too."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node] = {}
        self._aliases = 0
        self._nodes = 0

    def build(self, events: Iterator[yaml.Event]) -> Node:
        """Read the one document."""
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._give_up(event, "a second document ('---')", "one document")
                root = self._node(next(events), events, 1)
        if root is None or (isinstance(root, Scalar) and root.empty):
            raise DescriptionError(
                [*self.problems, Problem(self.file, 1, 1, "", "the file is empty", "a mapping of keys")]
            )
        if self.problems:
            raise DescriptionError(self.problems)
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._give_up(event, f"more than {MAX_DEPTH} levels inside each other", "a flatter description")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        line, column = _place(event)
        # quoted scalars carry the tag '!' in some positions; only a tag that somebody wrote is refused
        tag = getattr(event, "tag", None)
        if tag not in {None, "!"}:
            self._note(event, f"the tag {tag!r}", "a value without a tag")
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(line, column, event.value, plain=event.style is None)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Sequence(line, column)
            while not isinstance(following := next(events), yaml.SequenceEndEvent):
                item = self._node(following, events, depth + 1)
                node.items.append(item)
                node.size += item.size
                node.height = max(node.height, item.height + 1)
        else:
            node = Mapping(line, column)
            while not isinstance(following := next(events), yaml.MappingEndEvent):
                self._entry(node, following, events, depth)
        self._count(event, 1)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _entry(self, mapping: Mapping, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> None:
        key = self._node(event, events, depth + 1)
        value = self._node(next(events), events, depth + 1)
        mapping.size += key.size + value.size
        mapping.height = max(mapping.height, key.height + 1, value.height + 1)
        if not isinstance(key, Scalar):
            self._note(event, f"{show(key)} as a key", "a word")
        elif key.text in mapping.entries:
            first = mapping.entries[key.text][0]
            self._note(
                event, f"the key {show(key)} a second time", "each key once", f"it stands in line {first.line} too"
            )
        else:
            mapping.entries[key.text] = (key, value)

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._give_up(event, f"more than {MAX_ALIASES} aliases", "fewer")
        name = str(event.anchor)
        node = self._anchors.get(name)
        if (
            node is None
        ):  # which is also how a node that contains itself is refused: its anchor counts once it is complete
            self._give_up(event, f"the alias *{name[:_SHOWN]}", f"an anchor &{name[:_SHOWN]} that ended before it")
        if depth + node.height > MAX_DEPTH + 1:
            self._give_up(event, f"more than {MAX_DEPTH} levels inside each other", "a flatter description")
        self._count(event, node.size)
        return node

    def _count(self, event: yaml.Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._give_up(event, f"more than {MAX_NODES} values", "a smaller description")

    def _note(self, event: yaml.Event, found: str, expected: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, *_place(event), "", found, expected, hint))

    def _give_up(self, event: yaml.Event, found: str, expected: str) -> NoReturn:
        self._note(event, found, expected)
        raise DescriptionError(self.problems)


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
