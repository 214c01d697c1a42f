"""The JSON Schemas of our documents, as files: made from the same types and tables that read them.

Serves steps 1, 2, 5 and 12 for people who write or read documents with other tools. `pcm.cli.schemas` writes the files; a test
holds the checked-in ones equal to these. Schemas show shape only; rules such as path safety are the readers' own.
"""

from typing import Any

import msgspec

from pcm.protocol.instructions import Instructions
from pcm.protocol.manifest import Manifest
from pcm.protocol.package_yaml import package_schema
from pcm.protocol.report import Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DOCUMENTS: dict[str, tuple[type[msgspec.Struct], str]] = {
    "manifest": (Manifest, "manifest.json: one package, as its packager signed it"),
    "instructions": (Instructions, "instructions.json: everything that one client should do"),
    "report": (Report, "A status report: the payload of its DSSE envelope"),
}


def schema_files() -> dict[str, bytes]:
    """File name → its bytes, for each published schema."""
    made = {name: _document_schema(name, shape, title) for name, (shape, title) in _DOCUMENTS.items()}
    made["package"] = package_schema()
    return {f"{name}.schema.json": _bytes(schema) for name, schema in made.items()}


def _document_schema(name: str, shape: type[msgspec.Struct], title: str) -> dict[str, Any]:
    schema = msgspec.json.schema(shape)
    return {"$schema": DIALECT, "$id": f"urn:pcm:schema:{name}:1", "title": title, **schema}


def _bytes(schema: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
