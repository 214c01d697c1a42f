"""`package.yaml`: how a packager describes a package. Bytes in; a description, or every mistake with its line and column, out.

Step 1 of 12: before `content.package_directory` (which adds the files) and step 2 (which adds release and signature). `KEYS`
below is the whole language; the JSON Schema for editors is made from the same table (`package_schema`). It reads no file and
runs nothing.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pcm.model.errors import RequestError
from pcm.model.names import check_name, check_platform
from pcm.model.package import Package, PackageFile, PackageReference, check_package, check_return
from pcm.model.paths import check_relative_path
from pcm.model.program import ExitCodes, Limits, Parameter, Program, check_process_name, placeholder_of
from pcm.protocol.detection_yaml import DETECTION
from pcm.protocol.yaml_kinds import (
    FAILED,
    Choice,
    Duration,
    Flag,
    ListOf,
    MapOf,
    Number,
    Reading,
    Schema,
    Size,
    Text,
    spoken,
)
from pcm.protocol.yaml_records import Key, Record, Short
from pcm.protocol.yaml_tree import DescriptionError, read_tree

FILE_NAME = "package.yaml"
DANGEROUS_APPROVALS = 2
_LEAST_MEMORY = 2**20
_DANGEROUS = re.compile(r"(uninstall|remove|purge|wipe)(-.*)?")
_BRACES = re.compile(r"\{([A-Za-z][A-Za-z0-9_]{0,39})\}")


@dataclass(frozen=True)
class PackageDescription:
    """What `package.yaml` says. `package` has no files yet; its release is a placeholder if the packager leaves counting to PCM.

    `places`: key path (`programs.install.command[2]`) → line and column, for messages of later checks.
    """

    package: Package
    release: int | None
    file: str
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def with_files(self, files: tuple[PackageFile, ...], release: int) -> Package:
        """The whole package.

        Raises:
            RequestError: see `check_package`.
        """
        return check_package(msgspec.structs.replace(self.package, files=files, release=release))

    def place(self, key: str) -> tuple[int, int]:
        """Where a key stands, or the nearest one around it."""
        while key and key not in self.places:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.places.get(key, (1, 1))


def _named(kind: str, expected: str, pattern: str | None = None) -> Text:
    return Text(expected, 100, check=lambda text: check_name(kind, text), pattern=pattern)


def _build_program(read: dict[str, Any]) -> dict[str, Any]:
    names = {
        "command": "argv", "timeout": "timeout_s", "estimated": "estimated_s", "disk": "disk_bytes",
        "health_within": "health_within_s",
    }  # fmt: skip
    dangerous = read.pop("dangerous", None)
    made = {names.get(key, key): value for key, value in read.items()}
    _program(made)  # its own rules, told at its own place
    return made | {"dangerous": dangerous}


def _program(made: dict[str, Any]) -> Program:
    return Program(**made)


def _build_reference(read: dict[str, Any]) -> PackageReference:
    return PackageReference(package=read["package"], min_release=read.get("min_release", 1))


_CODES = ListOf(Number(-(2**31), 2**32 - 1), 0, 64, hint="write [0]")
_EXIT_CODES = Record(
    "exit codes",
    {
        "success": Key(_CODES, "Done. Default: 0 and 1707."),
        "restart": Key(_CODES, "Done, a restart is needed. Default: 3010."),
        "restarting": Key(_CODES, "Done, the program itself restarts the computer. Default: 1641."),
        "retry": Key(_CODES, "Busy, to be tried again. Default: 1618."),
        "cancelled": Key(_CODES, "A person or the program declined. Default: 1602."),
    },
    lambda read: ExitCodes(**read),
    {"ok": "success", "reboot": "restart", "done": "success"},
)
_ARGUMENT = Text("an argument", 4000, 0)
_ENVIRONMENT_NAME = "^[A-Za-z_][A-Za-z0-9_]{0,99}$"


def _check_variable(name: str) -> None:
    if re.fullmatch(_ENVIRONMENT_NAME, name) is None:
        raise ValueError(f"{name[:60]!r} cannot be the name of an environment variable")


def _check_folder(path: str) -> None:
    if not path.startswith("/") and ":" not in path:
        check_relative_path(path.removesuffix("/"))


def _build_limits(read: dict[str, Any]) -> Limits:
    if not read:
        raise ValueError("limits without any limit")
    if read.get("memory", _LEAST_MEMORY) < _LEAST_MEMORY:
        raise ValueError("memory: no program can live on less than 1 MiB")
    return Limits(memory_bytes=read.get("memory"), cpu_percent=read.get("cpu_percent"), processes=read.get("processes"))


def _check_process(name: str) -> None:
    check_process_name(name)


_LIMITS = Record(
    "limits",
    {
        "memory": Key(Size(), "Memory of all its processes together, such as 2 GiB. Over it, all of them are ended."),
        "cpu_percent": Key(Number(1, 100_000), "Percent of one processor core (200: two cores)."),
        "processes": Key(Number(1, 1_000_000), "Processes and threads at one time."),
    },
    _build_limits,
    {"cpu": "cpu_percent", "ram": "memory", "memory_bytes": "memory", "tasks": "processes", "pids": "processes"},
)
_PROGRAM = Record(
    "a program",
    {
        "command": Key(
            ListOf(_ARGUMENT, 1, 256, hint="write [program, argument, …]; there is no shell to split a line"),
            "The command line: program and arguments, one list item each. {NAME} as a whole argument takes a parameter.",
            required=True,
        ),
        "run_as": Key(
            Choice(("system", "user", "each_user")),
            "system (default), one logged-on user, or each user once, at their next logon.",
        ),
        "interaction": Key(Choice(("none", "allowed")), "Whether a user's program may show windows. Default: none."),
        "presence": Key(Choice(("any", "logged_on", "logged_off")), "Who must be there when it runs. Default: any."),
        "timeout": Key(Duration(), "Its whole process tree is ended after this. Default: 1h."),
        "exit_codes": Key(_EXIT_CODES, "What its exit codes mean."),
        "working_directory": Key(
            Text("a folder", check=_check_folder), "A folder of the package, or an absolute path. Default: the package."
        ),
        "environment": Key(
            MapOf(Text("a name", 100, check=_check_variable, pattern=_ENVIRONMENT_NAME), _ARGUMENT),
            "Environment variables; all others are absent.",
        ),
        "detect": Key(DETECTION, "How to see that its work is done."),
        "health": Key(DETECTION, "How to see that what it did works well. Asked once its work is done, until it holds."),
        "health_within": Key(Duration(3600), "For how long it may take until health holds. Default: 60s."),
        "rollback_to": Key(
            _named("program", "the name of a program", "^[a-z][a-z0-9-]*$"),
            "The program that returns to the last good version if health does not hold.",
        ),
        "blocking_processes": Key(
            ListOf(Text("a program's file name", 100, check=_check_process), 1, 32, hint="write [firefox]"),
            "File names of programs that it cannot run beside. The job says whether they are waited for or closed.",
        ),
        "limits": Key(_LIMITS, "What its whole process tree may use at most."),
        "user_requestable": Key(Flag(), "Whether a user may ask for it in the PCM application."),
        "approvals": Key(
            Number(0, 20), f"How many approvers must sign an order. Default: 0; {DANGEROUS_APPROVALS} for what is dangerous."
        ),
        "dangerous": Key(Flag(), f"Wants {DANGEROUS_APPROVALS} approvals. Default: true for uninstall, remove, purge, wipe."),
        "estimated": Key(Duration(), "How long it usually takes."),
        "disk": Key(Size(), "How much disk space it needs beyond its own files."),
    },
    _build_program,
    {
        "cmd": "command", "argv": "command", "args": "command", "run": "command", "exec": "command", "timeout_s": "timeout",
        "detection": "detect", "check": "detect", "user": "run_as", "context": "run_as", "env": "environment",
        "cwd": "working_directory", "workdir": "working_directory", "exit": "exit_codes", "returncodes": "exit_codes",
        "disk_bytes": "disk", "estimated_s": "estimated", "available": "user_requestable",
        "optional": "user_requestable", "healthcheck": "health", "rollback": "rollback_to", "blocking": "blocking_processes",
        "closes": "blocking_processes", "health_within_s": "health_within",
    },
)  # fmt: skip
_PARAMETER = Record(
    "a parameter",
    {
        "enum": Key(ListOf(_ARGUMENT, 1, 256), "The values that are allowed. Either this or pattern."),
        "pattern": Key(Text("a regular expression", 200), "What the whole value must match. Either this or enum."),
        "max_length": Key(Number(1, 1000), "Longest value, in characters. Default: 200."),
        "default": Key(_ARGUMENT, "The value if a job gives none."),
        "secret": Key(Flag(), "Never shown or logged."),
    },
    lambda read: Parameter(**read),
    {"regex": "pattern", "values": "enum", "choices": "enum", "length": "max_length"},
)
_RELEASE = Number(1, 2**53)
_PACKAGE_NAME = _named("package", "a package name (lower-case letters, digits, . + -)", "^[a-z0-9][a-z0-9.+-]*$")
_REFERENCE = Short(
    _PACKAGE_NAME,
    Record(
        "a package reference",
        {
            "package": Key(_PACKAGE_NAME, "Its name.", required=True),
            "min_release": Key(_RELEASE, "The least release of it that counts."),
        },
        _build_reference,
        {"name": "package", "release": "min_release"},
    ),
    lambda name: PackageReference(package=name),
)
_PLATFORM_PATTERN = "^(linux|windows|macos)-(x86_64|arm64|any)$"

KEYS = Record(
    "a package",
    {
        "name": Key(_PACKAGE_NAME, "Name of the package; never changes.", required=True),
        "version": Key(_named("version", "a version such as 24.08"), "The software's own version.", required=True),
        "release": Key(_RELEASE, "Counts up with everything that is published. Default: counted by PCM."),
        "min_release": Key(_RELEASE, "The oldest release that a client may go back to from this one. Default: 1."),
        "publisher": Key(Text("a name", 200, 0), "Who makes the software."),
        "summary": Key(Text("one line", 200, 0), "What it is, in one line."),
        "platforms": Key(
            ListOf(Text("a platform such as linux-x86_64", 40, check=check_platform, pattern=_PLATFORM_PATTERN), 1, 16,
                   hint="write [linux-x86_64]"),
            "Where it runs: linux, windows or macos, then x86_64, arm64 or any.",
            required=True,
        ),
        "requires": Key(ListOf(_REFERENCE), "Packages that must be installed before."),
        "conflicts": Key(ListOf(_REFERENCE), "Packages that must not be installed."),
        "supersedes": Key(
            ListOf(_PACKAGE_NAME, 0, 64),
            "Packages that this one takes the place of: where both are ordered, those are not installed.",
        ),
        "parameters": Key(
            MapOf(_named("parameter", "a parameter name", "^[A-Za-z][A-Za-z0-9_]*$"), _PARAMETER),
            "Values that a job may give to its programs.",
        ),
        "programs": Key(
            MapOf(_named("program", "a program name", "^[a-z][a-z0-9-]*$"), _PROGRAM, 1),
            "Its command lines: install, uninstall, repair, …",
            required=True,
        ),
    },
    lambda read: read,
    {
        "package": "name", "id": "name", "title": "summary", "description": "summary", "vendor": "publisher",
        "author": "publisher", "platform": "platforms", "commands": "programs", "depends": "requires",
        "dependencies": "requires", "params": "parameters", "replaces": "supersedes", "obsoletes": "supersedes",
    },
    {"icon": "a picture for lists"},
)  # fmt: skip


def read_package_yaml(data: bytes, file: str = FILE_NAME) -> PackageDescription:
    """Read a packager's description.

    Args:
        data: UTF-8 YAML, at most 256 KB.
        file: Its name as messages should show it.

    Raises:
        DescriptionError: every mistake in it, with line, column, key, what was found and what was expected.
    """
    tree = read_tree(data, file)
    reading = Reading(file)
    read = KEYS.read(tree, "", reading)
    made: Package | None = None
    if read is not FAILED:
        _check_across(read, reading)
        made = None if reading.problems else _assemble(read, reading)
    if made is None:
        raise DescriptionError(reading.problems)
    return PackageDescription(made, read.get("release"), file, reading.places)


def package_schema() -> Schema:
    """JSON Schema (2020-12) of `package.yaml`, for editors. It is a little wider than the reader, never narrower."""
    definitions: dict[str, Schema] = {}
    root = KEYS.schema(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:pcm:schema:package:1",
        "title": "package.yaml of Package Command Manager",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _check_across(read: dict[str, Any], reading: Reading) -> None:
    """Check what one key says about another, each mistake at its own place."""
    if read.get("min_release", 1) > read.get("release", 2**53):
        reading.note(
            reading.places["min_release"], "min_release", "it is newer than release", f"at most {read['release']}"
        )
    for index, superseded in enumerate(read.get("supersedes", ())):
        if superseded == read["name"]:
            key = f"supersedes[{index}]"
            reading.note(
                reading.places[key], key, "the package itself", "another one; a newer release needs no word of it"
            )
    programs: dict[str, Any] = read["programs"]
    declared = read.get("parameters", {})
    for name, program in programs.items():
        for index, argument in enumerate(program["argv"]):
            _check_argument(f"programs.{name}.command[{index}]", argument, declared, reading)


def _check_argument(key: str, argument: str, declared: dict[str, Any], reading: Reading) -> None:
    found = _BRACES.findall(argument)
    if not found:
        return
    whole = placeholder_of(argument) is not None
    place = reading.places[key]
    if whole and found[0] not in declared:
        known = ", ".join(declared) or "none is declared"
        reading.note(place, key, f"the parameter {{{found[0]}}}", f"one of those under parameters ({known})")
    elif not whole and any(name in declared for name in found):
        reading.note(
            place, key, f"a placeholder inside {argument[:60]!r}", "'{NAME}' or 'WORD={NAME}' as the whole argument"
        )


def _assemble(read: dict[str, Any], reading: Reading) -> Package | None:
    programs = {}
    for name, program in read["programs"].items():
        dangerous = program.pop("dangerous")
        if dangerous or (dangerous is None and _DANGEROUS.fullmatch(name)):
            program.setdefault("approvals", DANGEROUS_APPROVALS)
        programs[name] = _program(program)
    rest = {key: value for key, value in read.items() if key not in {"name", "release", "programs"}}
    package = Package(
        package=read["name"], release=read.get("release") or read.get("min_release", 1), programs=programs, **rest
    )
    for name, program in programs.items():
        try:
            check_return(package, name, program)
        except RequestError as error:
            key = f"programs.{name}.rollback_to"
            reading.note(reading.places[key], key, error.message.removeprefix(f"program {name}: ").rstrip("."), "")
            return None
    try:
        # the same limits once more, as the manifest's reader will hold them
        package = msgspec.convert(msgspec.to_builtins(package), Package)
    except (msgspec.ValidationError, ValueError) as error:
        reading.note((1, 1), "", spoken(error), "")
        return None
    return package


__all__ = ["FILE_NAME", "DescriptionError", "PackageDescription", "package_schema", "read_package_yaml"]
