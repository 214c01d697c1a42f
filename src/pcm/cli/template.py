"""A first `package.yaml` for `pcm package new`, fitting the installer that already lies in the folder.

Serves step 1. What it writes is valid and says itself what to change; it looks at file names only and runs nothing.
"""

import re
from pathlib import Path

from pcm.model.errors import RequestError
from pcm.model.names import check_name, check_platform
from pcm.protocol.package_yaml import FILE_NAME

_HEAD = """\
# What each key means: docs/package-yaml.md; editors check it with src/pcm/protocol/schemas/package.schema.json.
name: {name}
version: "{version}"
publisher: ""
summary: ""
platforms: [{platforms}]
programs:
"""
_DEB = """\
  install:
    command: [apt-get, install, -y, --no-install-recommends, ./{file}]
    environment: {{DEBIAN_FRONTEND: noninteractive}}
    timeout: 20m
    detect: {{dpkg: {software}, version: '>= {version}'}}
  uninstall:
    command: [apt-get, remove, -y, {software}]
    environment: {{DEBIAN_FRONTEND: noninteractive}}
"""
_RPM = """\
  install:
    command: [rpm, -U, {file}]
    timeout: 20m
    detect: {{rpm: {software}, version: '>= {version}'}}
  uninstall:
    command: [rpm, -e, {software}]
"""
_MSI = """\
  install:
    command: [msiexec.exe, /i, '{file}', /qn, /norestart]
    timeout: 20m
    # detect: {{msi_upgrade_code: '{{...}}', version: '>= {version}'}}
  uninstall:
    command: [msiexec.exe, /x, '{file}', /qn, /norestart]
"""
_OTHER = """\
  install:
    command: [{file}]            # the program and its arguments, one list item each; there is no shell
    timeout: 20m
    detect: {{file: /usr/local/bin/{software}}}   # how to see that it is there
"""
_BY_SUFFIX = {".deb": (_DEB, "linux-any"), ".rpm": (_RPM, "linux-any"), ".msi": (_MSI, "windows-any")}


def write_template(directory: Path, name: str | None, version: str | None, platforms: tuple[str, ...]) -> Path:
    """Write `package.yaml` into a folder, which is made if need be.

    Raises:
        RequestError: `conflict`: there is one; `request.name`; `request.unwritable`.
    """
    path = directory / FILE_NAME
    if path.exists():
        raise RequestError(f"{path} is there already.", code="conflict")
    installer = _find_installer(directory)
    body, platform = _BY_SUFFIX.get(installer.suffix.lower() if installer else "", (_OTHER, "linux-any"))
    parts = re.split(r"[_-](?=\d)", installer.stem, maxsplit=1) if installer else []
    software = _clean(parts[0] if parts else name or directory.resolve().name)
    found = re.match(r"[0-9][0-9A-Za-z.+~-]*", parts[1]) if len(parts) > 1 else None
    chosen = check_name("version", version or (found.group().rstrip(".") if found else "1.0"))
    for each in platforms:
        check_platform(each)
    text = _HEAD.format(
        name=check_name("package", name or software), version=chosen, platforms=", ".join(platforms or (platform,))
    )
    file = installer.name if installer else "./setup"
    text += body.format(file=file, software=software, version=chosen)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}.", code="request.unwritable") from None
    return path


def _find_installer(directory: Path) -> Path | None:
    if not directory.is_dir():
        return None
    found = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in _BY_SUFFIX and path.is_file()]
    # a name that would need quoting in YAML is left to the packager
    return next((path for path in found if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", path.name)), None)


def _clean(text: str) -> str:
    return re.sub(r"[^a-z0-9.+-]+", "-", text.lower()).strip("-.+") or "package"
