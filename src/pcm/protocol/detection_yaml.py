"""How detections are written in `package.yaml`: `{dpkg: jq, version: '>= 1.7'}`, `{file: /usr/bin/jq}`, `{all: [...]}`.

Serves step 1, inside `package_yaml`. Each form is known by its first key and becomes one value of `pcm.model.detection`.
"""

import ntpath
import posixpath
import re
from typing import Any

from pcm.model import detection as model
from pcm.model.errors import RequestError
from pcm.model.versions import check_constraint
from pcm.protocol.yaml_kinds import Choice, ListOf, Text
from pcm.protocol.yaml_records import ByFirstKey, Key, Later, Record

_GUID = r"^\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}$"
_SHA256 = "^[0-9a-f]{64}$"
_HIVES = ("HKEY_LOCAL_MACHINE", "HKLM")


def _check_absolute(path: str) -> None:
    # ntpath calls '/usr' absolute on some versions and not on others, so a Windows path is one with a drive or a share
    if not posixpath.isabs(path) and not ntpath.splitdrive(path)[0]:
        raise RequestError(
            f"path {path[:100]!r} is not absolute: a detection looks at the computer, not at the package"
        )


def _check_pattern(pattern: str, expected: str) -> Any:
    def check(text: str) -> None:
        if re.fullmatch(pattern, text) is None:
            raise RequestError(f"{text[:60]!r} is not {expected}")

    return check


def _check_registry_key(key: str) -> None:
    if key.split("\\", maxsplit=1)[0].upper() not in _HIVES or "\\" not in key:
        raise RequestError(
            f"registry key {key[:100]!r} does not begin with HKLM\\: the service sees no user's registry"
        )


_CONSTRAINT = Key(
    Text("a version constraint such as '>= 1.7'", 400, check=check_constraint),
    "Which versions count as installed: one of < <= = >= > and a version.",
)
_GUID_TEXT = Text("a GUID in braces", 60, check=_check_pattern(_GUID, "a GUID in braces, such as {23170F69-40C1-...}"))


def _msi(code: str) -> Record:
    return Record(
        f"a detection by {code}",
        {code: Key(_GUID_TEXT, "GUID of the MSI product, in braces.", required=True), "version": _CONSTRAINT},
        lambda read: model.MsiDetection(
            product_code=read.get("msi_product_code"),
            upgrade_code=read.get("msi_upgrade_code"),
            version=read.get("version"),
        ),
    )


def _inner() -> ByFirstKey:
    return DETECTION


def _several(word: str, about: str, shape: type[model.AllOf | model.AnyOf]) -> Record:
    children = ListOf(Later(_inner), 1, 20)
    return Record(
        f"a detection by {word}", {word: Key(children, about, required=True)}, lambda read: shape(of=list(read[word]))
    )


_FILE = Record(
    "a detection by file",
    {
        "file": Key(Text("an absolute path", check=_check_absolute), "Absolute path on the client.", required=True),
        "sha256": Key(
            Text(
                "64 hexadecimal digits",
                64,
                check=_check_pattern(_SHA256, "64 lower-case hexadecimal digits"),
                pattern=_SHA256,
            ),
            "SHA-256 that the file must have.",
        ),
    },
    lambda read: model.FileDetection(path=read["file"], sha256=read.get("sha256")),
)
_DPKG = Record(
    "a detection by dpkg",
    {
        "dpkg": Key(Text("a Debian package's name"), "Name of the Debian package.", required=True),
        "version": _CONSTRAINT,
    },
    lambda read: model.DpkgDetection(package=read["dpkg"], version=read.get("version")),
)
_RPM = Record(
    "a detection by rpm",
    {"rpm": Key(Text("an RPM package's name"), "Name of the RPM package.", required=True), "version": _CONSTRAINT},
    lambda read: model.RpmDetection(package=read["rpm"], version=read.get("version")),
)
_COMMAND = Record(
    "a detection by command",
    {
        "command": Key(
            ListOf(Text("an argument"), 1, 64, hint="write [program, argument, …]; there is no shell"),
            "Program and arguments, run as system without a shell.",
            required=True,
        ),
        "installed_when": Key(
            Choice(("exit_zero", "exit_nonzero")), "What the exit code means; always spelt out.", required=True
        ),
    },
    lambda read: model.CommandDetection(command=list(read["command"]), installed_when=read["installed_when"]),
)
_REGISTRY = Record(
    "a detection by registry",
    {
        "registry": Key(
            Text("a key below HKLM\\", check=_check_registry_key), "Registry key, from HKLM down.", required=True
        ),
        "value": Key(Text("a value's name"), "Name of the value in that key.", required=True),
        "equals": Key(Text(), "What the value must be; absent: it only has to exist."),
        "view": Key(Choice(("64", "32")), "Which registry view: 64 (default) or 32 bit."),
    },
    lambda read: model.RegistryDetection(
        key=read["registry"], value=read["value"], equals=read.get("equals"), view=read.get("view", "64")
    ),
)
_NOT = Record(
    "a detection by not",
    {"not": Key(Later(_inner), "This must not hold.", required=True)},
    lambda read: model.Not(of=read["not"]),
)

DETECTION = ByFirstKey(
    "a detection",
    {
        "file": _FILE,
        "dpkg": _DPKG,
        "rpm": _RPM,
        "command": _COMMAND,
        "registry": _REGISTRY,
        "msi_product_code": _msi("msi_product_code"),
        "msi_upgrade_code": _msi("msi_upgrade_code"),
        "all": _several("all", "Every one of these must hold.", model.AllOf),
        "any": _several("any", "At least one of these must hold.", model.AnyOf),
        "not": _NOT,
    },
    {
        "path": "file", "exists": "file", "deb": "dpkg", "debian": "dpkg", "apt": "dpkg", "msi": "msi_product_code",
        "product_code": "msi_product_code", "upgrade_code": "msi_upgrade_code", "and": "all", "or": "any", "argv": "command",
        "cmd": "command", "exec": "command", "registry_key": "registry",
    },
)  # fmt: skip
