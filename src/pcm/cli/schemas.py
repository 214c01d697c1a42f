"""Writes the JSON Schemas that are checked in: `python -m pcm.cli.schemas [FOLDER]`. A developer's tool beside step 1."""

import sys
from pathlib import Path

from pcm.protocol.schema_files import schema_files

FOLDER = Path(__file__).resolve().parents[1] / "protocol" / "schemas"


def main(arguments: list[str]) -> int:
    """Write all schemas into the folder; 0, or 2 for a wrong call."""
    if len(arguments) > 1:
        print("usage: python -m pcm.cli.schemas [FOLDER]", file=sys.stderr)
        return 2
    folder = Path(arguments[0]) if arguments else FOLDER
    for name, data in schema_files().items():
        (folder / name).write_bytes(data)
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
