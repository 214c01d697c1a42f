"""Writes docs/package-yaml.md from the table that reads `package.yaml`: `python -m tools.package_yaml_reference [FILE]`."""

import sys
from pathlib import Path

from pcm.protocol.detection_yaml import DETECTION
from pcm.protocol.package_yaml import KEYS
from pcm.protocol.yaml_kinds import Kind, ListOf, MapOf
from pcm.protocol.yaml_records import Record, Short

PAGE = Path(__file__).resolve().parents[1] / "docs" / "package-yaml.md"
_HEAD = """\
# package.yaml

What a packager writes into a package directory. This page is made from the program's own table by
`python -m tools.package_yaml_reference`; do not edit. Editors check the file with
[its JSON Schema](../src/pcm/protocol/schemas/package.schema.json); `pcm package lint DIRECTORY` checks more.

```yaml
name: jq
version: 1.7.1            # stays as it is spelt
summary: JSON in the shell
platforms: [linux-any]
programs:
  install:
    command: [apt-get, install, -y, ./jq.deb]   # a list: there is no shell
    timeout: 20m
    detect: {dpkg: jq, version: '>= 1.7'}
  uninstall:              # dangerous: takes 2 approvals unless it says `approvals: 0`
    command: [apt-get, remove, -y, jq]
```

Times are written `90s`, `20m`, `1h30m`; sizes `1.5 GB` (10⁹ bytes) or `200 MiB` (2²⁰). Every unknown key is refused.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD, _section("Keys of the package", KEYS)]
    for title, key in (
        ("Keys of a program", "programs"),
        ("Keys of a parameter", "parameters"),
        ("Keys of a requirement", "requires"),
    ):
        parts.append(_section(title, _inner(KEYS.keys[key].kind)))
    exit_codes = _inner(_inner(KEYS.keys["programs"].kind).keys["exit_codes"].kind)
    parts.append(_section("Exit codes", exit_codes))
    parts.append("## Detections\n\nA detection is known by one of these keys; `all`, `any` and `not` combine others.\n")
    for name, record in DETECTION.records.items():
        rows = "\n".join(
            f"- `{key}`{' (required)' if known.required else ''}: {known.about}" for key, known in record.keys.items()
        )
        parts.append(f"### {name}\n\n{rows}\n")
    return "\n".join(parts)


def _inner(kind: Kind) -> Record:
    """The record inside a mapping, a list or a short form."""
    while not isinstance(kind, Record):
        if isinstance(kind, MapOf):
            kind = kind.value
        elif isinstance(kind, ListOf):
            kind = kind.item
        elif isinstance(kind, Short):
            kind = kind.record
        else:
            raise TypeError(f"{kind} holds no record")
    return kind


def _section(title: str, record: Record) -> str:
    rows = [f"## {title}\n", "| key | what it is | expected |", "|---|---|---|"]
    for name, known in record.keys.items():
        required = " **Required.**" if known.required else ""
        rows.append(f"| `{name}` | {_cell(known.about)}{required} | {_cell(known.kind.expected)} |")
    if record.later:
        later = ", ".join(f"`{name}` ({about})" for name, about in record.later.items())
        rows.append(f"\nReserved, and refused because this version of the service does not do it yet: {later}.")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page; 0, or 2 for a wrong call."""
    if len(arguments) > 1:
        print("usage: python -m tools.package_yaml_reference [FILE]", file=sys.stderr)
        return 2
    path = Path(arguments[0]) if arguments else PAGE
    path.write_text(page(), encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
