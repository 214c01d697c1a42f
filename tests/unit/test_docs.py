"""What the documentation says of the code exists there: paths, codes, tests, examples, words."""

import ast
import re
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from pcm.model.names import check_name
from pcm.protocol.package_yaml import read_package_yaml
from pcm.site import configuration
from pcm.site.permissions import ENDPOINTS
from pcm.trust.codes import REFUSALS, TRANSFERS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted(DOCS.rglob("*.md"))]
NAMED_PATH = re.compile(r"`((?:src|tests|tools|docs|demo|bench|changelog\.d)/[A-Za-z0-9_./-]+)(?:::(\w+))?`")
NAMED_MODULE = re.compile(r"`(pcm(?:\.[a-z_]+)+)(?:\.\w+)?`")
CODES = re.compile(r"<!-- codes: begin -->\n(.*?)<!-- codes: end -->", re.DOTALL)


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def code_table() -> str:
    """The table of refusals as `docs/security.md` shows it; `python -m tests.unit.test_docs` prints it."""
    rows = [f"| `{code}` | {meaning} |" for code, meaning in sorted({**REFUSALS, **TRANSFERS}.items())]
    return "\n".join(["", "| code | meaning |", "|---|---|", *rows, "", ""])


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = {match[1] for match in NAMED_PATH.finditer(page.read_text())}
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing, f"{id_of(page)} names what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    for match in NAMED_MODULE.finditer(page.read_text()):
        path = ROOT / "src" / match[1].replace(".", "/")
        parents = (path, path.parent)  # the last word may be a function's
        assert any(each.with_suffix(".py").exists() or each.is_dir() for each in parents), f"{id_of(page)}: {match[0]}"


def test_the_architecture_names_code_for_each_of_the_twelve_steps() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    steps = re.findall(r"\n\*\*(\d+)\. .*?(?=\n\*\*\d+\. |\n## )", text, re.DOTALL)
    bodies = re.findall(r"\n\*\*\d+\. (.*?)(?=\n\*\*\d+\. |\n## )", text, re.DOTALL)
    assert steps == [str(number) for number in range(1, 13)]
    for number, body in zip(steps, bodies, strict=True):
        assert re.search(r"`src/pcm/[a-z_/]+\.py`", body), f"step {number} names no file"


def test_the_architecture_knows_where_each_module_of_the_client_stands() -> None:
    """In the step that it serves, or beside the way: whoever looks for a file finds what it is for."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    modules = [path for path in (ROOT / "src/pcm/service").rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 100
    assert sorted(name for path in modules if f"`{(name := str(path.relative_to(ROOT)))}`" not in text) == []


def test_the_glossary_has_each_word_that_the_client_says_to_people() -> None:
    words = re.findall(r"^\| \*\*([^*]+)\*\*", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert {"Announcement", "Brake", "Occurrence", "Rest", "Trial", "Wake"} <= set(words)
    assert words == sorted(words, key=str.casefold)


def test_functions_that_the_architecture_names_are_in_the_file_before_them() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`(src/pcm/[a-z0-9_/]+\.py)`\s*\(([^)]*)\)", text)
    assert len(named) > 15
    for path, words in named:
        code = (ROOT / path).read_text()
        for name in re.findall(r"`([A-Za-z_.]+)`", words):
            if not name.endswith((".json", ".py")):
                last = name.rpartition(".")[2]
                assert re.search(rf"\b(def|class) {last}\b|^{last}\b", code, re.MULTILINE), f"{path} has no {name}"


def test_the_manual_lists_every_refusal_code() -> None:
    found = CODES.search((DOCS / "security.md").read_text())
    assert found is not None
    assert found[1] == code_table(), "renew it with: python -m tests.unit.test_docs"


def test_every_trust_code_in_the_documentation_is_in_the_table() -> None:
    known = {*REFUSALS, *TRANSFERS}
    for page in PAGES:
        text = page.read_text()
        said = set(re.findall(r"`(trust\.[a-z_]+)`", text))
        modules = {code for code in said if (ROOT / "src/pcm/trust" / f"{code.removeprefix('trust.')}.py").exists()}
        assert said - modules <= known, id_of(page)


def test_every_test_named_beside_a_recorded_failure_exists() -> None:
    text = (DOCS / "kb-regressions.md").read_text()
    named = [(match[1], match[2]) for match in NAMED_PATH.finditer(text) if match[2]]
    assert len(named) > 50
    functions: dict[str, set[str]] = {}
    for path, name in named:
        if path not in functions:
            tree = ast.parse((ROOT / path).read_text())
            functions[path] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions[path], f"{path} has no {name}"


def test_a_recorded_failure_is_kept_by_a_test_of_its_own_number_or_not_yet() -> None:
    text = (DOCS / "kb-regressions.md").read_text()
    kept = re.findall(r"(Q\d{5,6}): `[^`]*::(\w+)`", text)
    for article, test in kept:
        assert f"_{article.lower()}" in test, f"{test} does not speak of {article}"
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ") and "`tests/" in line]
    waiting = {article for row in rows for article in re.findall(r"Q\d{5,6}", row[3])}
    assert not waiting & {article for article, _ in kept}
    stated = re.search(r"Kept: (\d+) of (\d+)", text)
    assert stated is not None
    assert int(stated[1]) == len({article for article, _ in kept})


def test_the_example_package_is_valid() -> None:
    for text in fenced("packages.md", "yaml"):
        assert read_package_yaml(text.encode()).package.version == "2.10"


def test_the_example_site_is_valid_and_shows_every_key() -> None:
    (text,) = fenced("operations.md", "yaml")
    read = configuration.check(msgspec.yaml.decode(text.encode(), type=configuration.SiteConfiguration))
    assert check_name("site", read.name)
    shown = yaml.safe_load(text)
    assert set(shown) == set(configuration.SiteConfiguration.__struct_fields__)
    assert set(shown["settings"]) == set(configuration.Settings.__struct_fields__)
    assert set(shown["content"]) == set(configuration.Content.__struct_fields__)
    assert set(shown["content"]["improve"]) == set(configuration.Improve.__struct_fields__)


def test_the_glossary_has_every_word_that_the_documentation_relies_on() -> None:
    glossary = (DOCS / "glossary.md").read_text()
    for word in ("Approval", "Brake", "Ceremony", "Floor", "Keyring", "Ledger", "Refusal", "Object", "Step"):
        assert re.search(rf"^\| \*\*{word}", glossary, re.MULTILINE), word


def test_forbidden_words_name_nothing() -> None:
    words = re.compile(r"\b(managers?|helpers?|utils?|handlers?)\b", re.IGNORECASE)
    allowed = re.compile(r"Package Command Manager|Process Manager")
    for page in PAGES:
        prose = allowed.sub("", re.sub(r"```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)", "", page.read_text(), flags=re.DOTALL))
        assert words.search(prose) is None, f"{id_of(page)}: {words.search(prose)}"


def test_roles_in_the_manual_are_those_of_the_permission_table() -> None:
    text = (DOCS / "operations.md").read_text()
    section = text[text.index("## Tokens and roles") :]
    said = set(re.findall(r"^\| `(\w+)` \|", section[: section.index("```")], re.MULTILINE))
    assert said == {role for allowed in ENDPOINTS.values() for role in allowed}


if __name__ == "__main__":
    sys.stdout.write(code_table())
