"""How to see whether a program's work is done: detections, as packagers write them and clients evaluate them.

Serves steps 1 (written in `package.yaml`), 7 (the planner asks 'already there?') and 11 (`service.steps.detect`). These are
values only; `service.machine.detection` looks at the computer.
"""

from typing import Annotated, Literal

import msgspec

from pcm.model.versions import check_constraint

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
_Children = Annotated[list["Detection"], msgspec.Meta(min_length=1, max_length=20)]


class FileDetection(msgspec.Struct, frozen=True, tag="file", tag_field="kind", forbid_unknown_fields=False):
    """A file exists at an absolute path, and has this hash if one is given."""

    path: _Text
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")] | None = None


class DpkgDetection(msgspec.Struct, frozen=True, tag="dpkg", tag_field="kind"):
    """A Debian package is installed, in a version that fits the constraint (`>= 1.2`), if one is given."""

    package: _Text
    version: _Text | None = None

    def __post_init__(self) -> None:
        if self.version is not None:
            check_constraint(self.version)


class RpmDetection(msgspec.Struct, frozen=True, tag="rpm", tag_field="kind"):
    """An RPM package is installed, in a version that fits the constraint, if one is given."""

    package: _Text
    version: _Text | None = None

    def __post_init__(self) -> None:
        if self.version is not None:
            check_constraint(self.version)


class CommandDetection(msgspec.Struct, frozen=True, tag="command", tag_field="kind"):
    """A command, run as system without a shell, answers by its exit code. The meaning is always spelt out."""

    command: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=64)]
    installed_when: Literal["exit_zero", "exit_nonzero"]


class RegistryDetection(msgspec.Struct, frozen=True, tag="registry", tag_field="kind"):
    """Windows: a registry value exists, and equals `equals` if given."""

    key: _Text
    value: _Text
    equals: _Text | None = None
    view: Literal["64", "32"] = "64"


class MsiDetection(msgspec.Struct, frozen=True, tag="msi", tag_field="kind"):
    """Windows: an MSI product is installed, by product code or upgrade code, in a version that fits."""

    product_code: _Text | None = None
    upgrade_code: _Text | None = None
    version: _Text | None = None

    def __post_init__(self) -> None:
        if (self.product_code is None) == (self.upgrade_code is None):
            raise ValueError("an msi detection needs either product_code or upgrade_code")
        if self.version is not None:
            check_constraint(self.version)


class AllOf(msgspec.Struct, frozen=True, tag="all", tag_field="kind"):
    """Every one of these holds."""

    of: _Children


class AnyOf(msgspec.Struct, frozen=True, tag="any", tag_field="kind"):
    """At least one of these holds."""

    of: _Children


class Not(msgspec.Struct, frozen=True, tag="not", tag_field="kind"):
    """This does not hold."""

    of: "Detection"


Detection = (
    FileDetection
    | DpkgDetection
    | RpmDetection
    | CommandDetection
    | RegistryDetection
    | MsiDetection
    | AllOf
    | AnyOf
    | Not
)
