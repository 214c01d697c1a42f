"""The wire format stands: checked-in bytes, both ways; and the checked-in schemas are the ones that our types make."""

import json

import jsonschema
import pytest

from pcm.cli.schemas import FOLDER as SCHEMAS
from pcm.cli.schemas import main
from pcm.protocol.schema_files import schema_files
from tests.golden.documents import FOLDER, GOLDEN, Golden


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_documents_are_written_and_read_as_ever(golden: Golden) -> None:
    pinned = (FOLDER / golden.name).read_bytes()
    assert golden.write(golden.value) == pinned
    assert golden.read(pinned) == golden.value


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == {golden.name for golden in GOLDEN}


@pytest.mark.parametrize("name", sorted(schema_files()))
def test_checked_in_schemas_are_up_to_date(name: str) -> None:
    assert (SCHEMAS / name).read_bytes() == schema_files()[name], "run: python -m pcm.cli.schemas"
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_files()[name]))


@pytest.mark.parametrize("name", ["manifest", "instructions", "report"])
def test_golden_documents_fit_their_schemas(name: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_bytes()))
    document = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert list(validator.iter_errors(document)) == []
    del document["type"]
    assert list(validator.iter_errors(document)) != []


def test_the_schema_tool_refuses_more_than_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err
