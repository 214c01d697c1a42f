"""The shape of the code, where ruff, mypy and import-linter cannot express it. `docs/development.md` names this file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pcm"
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60

# No input, no output, no clock, no chance: `model`, `protocol`, the planner, the rules of restarts and of targeting.
PURE = ("model/", "protocol/", "service/planner", "service/restart_rules", "site/targeting")
IMPURE_MODULES = {
    "asyncio", "ctypes", "fcntl", "http", "io", "logging", "mmap", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib.request", "pathlib.Path", "pcm.service.machine",
}  # fmt: skip
IMPURE_NAMES = {"open", "print", "input", "exec", "eval"}
CLOCKS = {"now", "utcnow", "today"}

# On clients, processes are started by `service/machine` alone; the site has one child, which makes content smaller.
SITES_CHILD = "site/improving.py"
STARTERS = {"multiprocessing", "pty", "subprocess"}
STARTING = re.compile(
    r"os\.(system|popen|fork|forkpty|exec[lv]p?e?|spawn[lv]p?e?|posix_spawnp?)$|asyncio\.create_subprocess_\w+$"
)

# One system's own code is asked for through `service/machine/interface.py` alone, so that another system is no redesign.
ONE_SYSTEMS_OWN = {"pcm.service.machine.linux", "pcm.service.machine.posix"}

# Where a blanket except may stand: process entries, the step runner, the HTTP boundary.
BLANKET_ALLOWED: set[str] = {"service/course.py", "site/api/calls.py"}
FORBIDDEN_WORDS = {"manager", "managers", "helper", "helpers", "util", "utils", "common", "handler", "handlers"}


class Module(NamedTuple):
    """One file of the product, parsed."""

    path: str
    text: str
    tree: ast.Module


def modules() -> list[Module]:
    files = sorted(SOURCE.rglob("*.py"))
    return [Module(str(file.relative_to(SOURCE)), file.read_text(), ast.parse(file.read_text())) for file in files]


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported at run time or for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, names: set[str]) -> bool:
    """Whether a dotted name is one of the names, or below one."""
    return any(name == other or name.startswith(f"{other}.") for other in names)


def impurities(module: Module) -> Iterator[str]:
    for line, name in imports(module.tree):
        if within(name, IMPURE_MODULES):
            yield f"{module.path}:{line}: imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "pathlib.Path":
            yield f"{module.path}:{node.lineno}: uses pathlib.Path"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in IMPURE_NAMES or (called.rpartition(".")[2] in CLOCKS and called.startswith(("date", "dt."))):
            yield f"{module.path}:{node.lineno}: calls {called}"


def starts(module: Module) -> Iterator[str]:
    for line, name in imports(module.tree):
        if within(name, STARTERS) or STARTING.match(name):
            yield f"{module.path}:{line}: imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and STARTING.match(ast.unparse(node)):
            yield f"{module.path}:{node.lineno}: uses {ast.unparse(node)}"


def own_to_one_system(module: Module) -> Iterator[str]:
    for line, name in imports(module.tree):
        if within(name, ONE_SYSTEMS_OWN):
            yield f"{module.path}:{line}: imports {name}"


def blanket_excepts(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None  # cleans up, hides nothing
            if not passes_on and (not caught or re.search(r"\b(Base)?Exception\b", caught)):
                yield f"{module.path}:{node.lineno}: except {caught}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            yield from (
                f"{module.path}:{node.lineno}: suppress"
                for name in node.args
                if ast.unparse(name).endswith("Exception")
            )


def long_functions(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{module.path}:{node.lineno}: {node.name} has {length} lines"


def vague_names(module: Module) -> Iterator[str]:
    for part in Path(module.path).with_suffix("").parts:
        if words(part) & FORBIDDEN_WORDS:
            yield f"{module.path}: a module named {part}"
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and words(node.name) & FORBIDDEN_WORDS
        ):
            yield f"{module.path}:{node.lineno}: {node.name}"


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_pure_parts_do_no_input_or_output_and_read_no_clock() -> None:
    assert [fault for module in MODULES if module.path.startswith(PURE) for fault in impurities(module)] == []


def test_only_service_machine_starts_processes() -> None:
    others = [
        module for module in MODULES if not module.path.startswith("service/machine/") and module.path != SITES_CHILD
    ]
    assert [fault for module in others for fault in starts(module)] == []


def test_only_service_machine_knows_which_system_it_is() -> None:
    others = [module for module in MODULES if not module.path.startswith("service/machine/")]
    assert [fault for module in others for fault in own_to_one_system(module)] == []


def test_blanket_excepts_stand_only_where_they_may() -> None:
    others = [module for module in MODULES if module.path not in BLANKET_ALLOWED]
    assert [fault for module in others for fault in blanket_excepts(module)] == []


def test_the_list_of_blanket_excepts_holds_nothing_that_needs_none() -> None:
    needed = {module.path for module in MODULES if any(blanket_excepts(module))}
    assert BLANKET_ALLOWED - needed == set()


def test_functions_stay_short() -> None:
    assert [fault for module in MODULES for fault in long_functions(module)] == []


def test_modules_stay_short() -> None:
    lengths = {module.path: len(module.text.splitlines()) for module in MODULES}
    assert {path: length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_every_module_opens_with_a_docstring() -> None:
    assert [module.path for module in MODULES if not ast.get_docstring(module.tree)] == []


def test_names_say_what_a_thing_is() -> None:
    assert [fault for module in MODULES for fault in vague_names(module)] == []


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    assert [module.path for module in MODULES if later.search(module.text)] == []


def test_packages_import_nothing_when_they_are_only_named() -> None:
    """So that `import pcm.service.supervisor` loads the supervisor and nothing else."""
    packages = [module for module in MODULES if module.path.endswith("__init__.py")]
    assert [f"{module.path}:{line}: {name}" for module in packages for line, name in imports(module.tree)] == []


def test_the_paths_that_the_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:src|tests|docs|tools|bench|demo)/[\w./-]*)`", text))
    assert len(named) > 8
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (impurities, "import os.path"),
        (impurities, "from datetime import datetime\nstamp = datetime.now()"),
        (impurities, "text = open('x').read()"),
        (impurities, "from pathlib import Path"),
        (starts, "from subprocess import run"),
        (starts, "import os\nos.posix_spawn('x', [], {})"),
        (own_to_one_system, "from pcm.service.machine.posix.staging import StagingDirectory"),
        (blanket_excepts, "try:\n    pass\nexcept (ValueError, Exception):\n    pass"),
        (blanket_excepts, "try:\n    pass\nexcept:\n    pass"),
        (blanket_excepts, "with contextlib.suppress(Exception):\n    pass"),
        (long_functions, "def f():\n" + "    pass\n" * 60),
        (vague_names, "class StoreManager: pass"),
        (vague_names, "def http_utils(): pass"),
    ],
)
def test_each_check_can_fail(check: object, text: str) -> None:
    assert callable(check)
    assert list(check(Module("model/x.py", text, ast.parse(text)))) != []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (impurities, "from pathlib import PurePosixPath\nfrom urllib.parse import urlsplit"),
        (impurities, "def due(now: datetime) -> bool: return now > datetime(2026, 1, 1)"),
        (starts, "import os\nos.posix_fallocate(1, 0, 1)"),
        (own_to_one_system, "from pcm.service.machine.here import this_machine"),
        (blanket_excepts, "try:\n    pass\nexcept OSError:\n    pass"),
        (blanket_excepts, "try:\n    pass\nexcept BaseException:\n    undo()\n    raise"),
        (long_functions, "def f():\n" + "    pass\n" * 59),
        (vague_names, "class Commonality: pass"),
    ],
)
def test_no_check_cries_wolf(check: object, text: str) -> None:
    assert callable(check)
    assert list(check(Module("model/x.py", text, ast.parse(text)))) == []
