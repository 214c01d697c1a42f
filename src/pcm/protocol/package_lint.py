"""What a package description allows but a packager probably does not mean: missing files, no detection, shells, questions.

Serves step 1 (`pcm package lint` and `create`), after `package_yaml` and the scan of the directory. Pure: a description and the
list of files in, findings out. An error would fail on every client; a warning may be meant.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.package_yaml import PackageDescription

_INSTALLERS = (".msi", ".msp", ".mst", ".deb", ".rpm", ".pkg", ".appx", ".msix")
_SCRIPTS = (".sh", ".py", ".ps1", ".bat", ".cmd", ".exe")
_OF_WINDOWS = {
    "msiexec", "powershell", "pwsh", "cmd", "reg", "sc", "net", "wusa", "dism", "regsvr32", "rundll32", "schtasks", "wmic",
    "winget", "cscript", "wscript", "certutil", "netsh", "xcopy", "robocopy", "icacls", "taskkill", "pnputil", "bcdedit",
}  # fmt: skip
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "cmd", "powershell", "pwsh"}
_SHELL_SWITCHES = {"-c", "-lc", "/c", "/k", "-command", "-encodedcommand", "-e", "-ec"}
_META = re.compile(r"&&|\|\||[;|<>`]|\$\(|\$\{|\$[A-Za-z_]|%[A-Za-z_]\w*%|^&$")
_QUIET_SETUP = {
    "/s",
    "/silent",
    "/verysilent",
    "/quiet",
    "/q",
    "/qn",
    "-q",
    "--quiet",
    "-s",
    "--silent",
    "/passive",
    "--unattended",
}
# ended, these take the person's session, or the way to the computer, with them
_NEVER_CLOSED = {
    "systemd", "init", "dbus-daemon", "dbus-broker", "sshd", "login", "Xorg", "Xwayland", "gnome-shell", "kwin_wayland",
    "plasmashell", "explorer.exe", "lsass.exe", "services.exe", "winlogon.exe", "pcmsvc", "pcmapp",
}  # fmt: skip
_INTERPRETERS = re.compile(
    r"(sh|bash|dash|zsh|perl|ruby|node|java|python[0-9.]*|pwsh|powershell|wscript|cscript)(\.exe)?"
)
_UNDOING = re.compile(r"(uninstall|remove|purge|wipe)(-.*)?")


@dataclass(frozen=True)
class Finding:
    """One thing that lint noticed: where it is (line and column from 1), and what to do about it."""

    level: Literal["error", "warning"]
    rule: str
    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.level}: {self.key + ': ' if self.key else ''}{self.message} [{self.rule}]"


def lint_package(description: PackageDescription, files: tuple[PackageFile, ...]) -> list[Finding]:
    """Look a package over.

    Args:
        description: From `package.yaml`.
        files: What the package directory holds.

    Returns:
        Findings in the order of the file.
    """
    findings = list(_whole(description))
    known = {file.path: file for file in files}
    for name, program in description.package.programs.items():
        key = f"programs.{name}"
        found = [
            *_files_of(key, program, known, description),
            *_shell_of(key, program, description),
            *_questions_of(key, program, description),
            *_detection_of(key, name, program, description),
            *_blocking_of(key, program, description),
            *_windows_of(key, program, description),
        ]
        findings += found
    return sorted(findings, key=lambda finding: (finding.line, finding.column, finding.rule))


def _finding(
    description: PackageDescription, level: Literal["error", "warning"], rule: str, key: str, message: str
) -> Finding:
    line, column = description.place(key)
    return Finding(level, rule, description.file, line, column, key, message)


def _whole(description: PackageDescription) -> Iterator[Finding]:
    package = description.package
    if not any(_UNDOING.fullmatch(name) for name in package.programs):
        yield _finding(
            description,
            "warning",
            "no-uninstall",
            "programs",
            "no program takes the software away again: add 'uninstall'",
        )
    used = {name for program in package.programs.values() for name in program.placeholders()}
    for name in package.parameters:
        if name not in used:
            yield _finding(
                description, "warning", "unused-parameter", f"parameters.{name}", "no program uses this parameter"
            )


def _files_of(
    key: str, program: Program, known: dict[str, PackageFile], description: PackageDescription
) -> Iterator[Finding]:
    folder = program.working_directory or ""
    if folder and not _is_elsewhere(folder) and not any(path.startswith(folder.rstrip("/") + "/") for path in known):
        message = f"{folder} is no folder of the package directory"
        yield _finding(description, "error", "missing-file", f"{key}.working_directory", message)
        return
    on_linux = any(platform.startswith(("linux", "macos")) for platform in description.package.platforms)
    for index, argument in enumerate(program.argv):
        lower = argument.lower()
        if index == 0 and lower.removesuffix(".exe") in _OF_WINDOWS:
            continue
        wanted = lower.endswith(_INSTALLERS) or (index == 0 and ("/" in argument or lower.endswith(_SCRIPTS)))
        if not wanted or _is_elsewhere(argument) or "{" in argument or "=" in argument:
            continue
        path = posixpath.normpath(posixpath.join("" if _is_elsewhere(folder) else folder, argument.replace("\\", "/")))
        place = f"{key}.command[{index}]"
        if path not in known:
            near = [other for other in known if other.lower() == path.lower()]
            hint = f"; there is {near[0]}" if near else ""
            yield _finding(
                description, "error", "missing-file", place, f"{argument} is not in the package directory{hint}"
            )
        elif index == 0 and on_linux and not known[path].executable and not lower.endswith((".exe", ".bat", ".cmd")):
            message = f"{argument} is not executable: chmod +x {path}"
            yield _finding(description, "error", "not-executable", place, message)


def _is_elsewhere(path: str) -> bool:
    """Whether a path leads to the client's own files, or is no path at all."""
    return path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path) is not None or "%" in path


def _program_name(program: Program) -> str:
    return re.split(r"[/\\]", program.argv[0])[-1].lower().removesuffix(".exe")


def _shell_of(key: str, program: Program, description: PackageDescription) -> Iterator[Finding]:
    if _program_name(program) in _SHELLS and any(part.lower() in _SHELL_SWITCHES for part in program.argv[1:]):
        message = (
            "this runs a line of shell: quoting differs between systems, and its failures hide in the middle. "
            "Name the program itself, or put a script into the package"
        )
        yield _finding(description, "warning", "shell", f"{key}.command", message)
        return
    for index, argument in enumerate(program.argv):
        found = _META.search(argument)
        if found is not None:
            message = f"{found.group()!r} stands in {argument[:60]!r} and is passed on as it is: there is no shell"
            yield _finding(description, "warning", "shell-characters", f"{key}.command[{index}]", message)


def _questions_of(key: str, program: Program, description: PackageDescription) -> Iterator[Finding]:
    name, words = _program_name(program), {part.lower() for part in program.argv[1:]}
    wanted = ""
    if name == "msiexec" and not words & {"/qn", "/quiet", "/q", "-qn", "-quiet"}:
        wanted = "/qn"
    elif name in {"apt", "apt-get", "dnf", "yum"} and not words & {"-y", "--yes", "--assume-yes", "-qy", "-yq", "-qqy"}:
        wanted = "-y"
    elif name == "zypper" and not words & {"-n", "--non-interactive"}:
        wanted = "--non-interactive"
    elif re.match(r"(setup|install)", name) and program.argv[0].lower().endswith(".exe") and not words & _QUIET_SETUP:
        wanted = "/S or /quiet (what it takes, its maker says)"
    if wanted and program.interaction == "none":
        message = f"{name} may ask questions that nobody sees: add {wanted}"
        yield _finding(description, "warning", "interactive", f"{key}.command", message)


def _detection_of(key: str, name: str, program: Program, description: PackageDescription) -> Iterator[Finding]:
    if program.detect is None and not _UNDOING.fullmatch(name):
        message = (
            "no detect: only the exit code will tell whether it worked, and it runs again where it is there already"
        )
        yield _finding(description, "warning", "no-detection", key, message)
    if program.health is not None and program.rollback_to is None and not _UNDOING.fullmatch(name):
        message = "a health check without rollback_to: if it does not hold, the order has failed and nothing is undone"
        yield _finding(description, "warning", "no-return", f"{key}.health", message)


def _windows_of(key: str, program: Program, description: PackageDescription) -> Iterator[Finding]:
    if program.interaction == "allowed" and program.run_as == "system":
        message = "a program that runs as system has no screen to show windows on; only run_as: user or each_user has"
        yield _finding(description, "error", "system-window", f"{key}.interaction", message)


def _blocking_of(key: str, program: Program, description: PackageDescription) -> Iterator[Finding]:
    for index, name in enumerate(program.blocking_processes):
        place = f"{key}.blocking_processes[{index}]"
        if name in _NEVER_CLOSED:
            message = f"{name} belongs to the computer, not to a package: closing it would end more than is meant"
            yield _finding(description, "error", "blocking-system", place, message)
        elif _INTERPRETERS.fullmatch(name):
            message = f"{name} runs programs of many kinds, and every one of them would be in the way: name the script"
            yield _finding(description, "warning", "blocking-interpreter", place, message)
