"""The packager's verbs behind `pcm package`: reading a directory, showing what was found, handing over to publishing.

Serves steps 1 and 2. The rules are in `protocol.package_yaml` and `protocol.package_lint`, the work in `content` and
`distribution.publication`; here they are called in their order, and shown.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from pcm.cli import show
from pcm.cli.ask import confirm, passphrase
from pcm.cli.contexts import state_folder
from pcm.cli.progress import progress
from pcm.cli.settings import Settings
from pcm.model.errors import RequestError
from pcm.model.package import PackageFile
from pcm.protocol import codec
from pcm.protocol.admin_packages import PackageDetail, VersionDetail
from pcm.protocol.package_lint import Finding, lint_package
from pcm.protocol.package_yaml import FILE_NAME, PackageDescription, read_package_yaml
from pcm.protocol.printable import printable
from pcm.protocol.yaml_tree import MAX_BYTES


@dataclass(frozen=True)
class Made:
    """A package directory, read: what its packager says, its files by hash, and what lint thinks of both."""

    directory: Path
    description: PackageDescription
    files: tuple[PackageFile, ...]
    findings: list[Finding]

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.description.package.package} {self.description.package.version}"


@dataclass(frozen=True)
class Signing:
    """Which keys sign: the keyring's folder, the team, the pinned root and the passphrase's file, as given."""

    keys: Path
    team: str | None
    root_file: str | None
    passphrase_file: str | None


def read_directory(settings: Settings, directory: Path) -> Made:
    """Read `package.yaml`, hash all files (those that were not hashed before), and look both over.

    Raises:
        DescriptionError: everything wrong with `package.yaml`.
        RequestError: `not_found`; what a package cannot carry.
    """
    from pcm.content.package_directory import scan  # noqa: PLC0415 - see cli.verbs
    from pcm.distribution.scan_memory import HashedFiles  # noqa: PLC0415

    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if not directory.is_dir():
            raise RequestError(f"There is no folder {directory}.", code="not_found") from None
        raise RequestError(
            f"{directory} has no {FILE_NAME}. Write a first one: pcm package new {directory}", code="not_found"
        ) from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.", code="request.unreadable") from None
    description = read_package_yaml(data, str(path))
    with (
        HashedFiles(state_folder() / "hashes", directory) as memory,
        progress("Reading", settings.output) as advance,
    ):
        files = scan(directory, lambda at: advance(at.bytes_done, at.bytes_total, at.path), memory)
    return Made(directory, description, files, lint_package(description, files))


def show_findings(settings: Settings, made: Made, *, strict: bool) -> None:
    """Show what lint found.

    Raises:
        RequestError: `request.lint`, if there are errors (or, strict, warnings).
    """
    if not show.print_data(made.findings, settings.output):
        for finding in made.findings:
            colour = "red" if finding.level == "error" else "yellow"
            click.echo(printable(str(finding)).replace(finding.level, click.style(finding.level, fg=colour), 1))
        if not made.findings:
            click.echo(
                f"{made.title}: {show.count(len(made.files), 'file')}, "
                f"{show.count(len(made.description.package.programs), 'program')}, no findings."
            )
    _refuse(made, strict=strict)


def refuse_errors(made: Made, *, strict: bool) -> None:
    """Tell findings on stderr; go on only if none of them is an error. Raises like `show_findings`."""
    for finding in made.findings:
        show.say(str(finding))
    _refuse(made, strict=strict)


def _refuse(made: Made, *, strict: bool) -> None:
    errors = [finding for finding in made.findings if strict or finding.level == "error"]
    if errors:
        count = "one finding stands" if len(errors) == 1 else f"{len(errors)} findings stand"
        raise RequestError(f"{made.title}: {count} in the way.", code="request.lint")


def show_draft(settings: Settings, made: Made, draft: Path | None) -> None:
    """Show the manifest as it would be signed; write it to a file if asked to."""
    description = made.description
    package = description.with_files(made.files, description.release or description.package.release)
    if draft is not None:
        if made.directory.resolve() in draft.resolve().parents:
            raise RequestError(
                f"{draft} lies in the package directory and would become a part of it.", code="request.draft"
            )
        try:
            draft.write_bytes(msgspec.json.format(codec.encode(package), indent=2) + b"\n")
        except OSError as error:
            raise RequestError(f"{draft} cannot be written: {error.strerror}.", code="request.draft") from None
    if show.print_data(package, settings.output):
        return
    release = str(description.release) if description.release else "counted when published"
    show.print_facts(
        (
            ("package", package.package),
            ("version", show.plain(package.version)),
            ("release", release),
            ("platforms", ", ".join(package.platforms)),
            ("files", f"{len(package.files)} ({show.size(package.content_bytes())})"),
        )
    )
    rows = [(name, show.plain(" ".join(p.argv)), p.run_as, p.approvals or "") for name, p in package.programs.items()]
    show.print_table(("program", "~command", "runs as", ">approvals"), rows, none="")
    click.echo(f"Nothing is signed yet. Next: pcm package publish {made.directory} --keys KEYS")


def publish(settings: Settings, made: Made, signing: Signing, *, dry_run: bool) -> None:
    """Sign and publish what was read."""
    from pcm.cli.publishing import packager  # noqa: PLC0415 - see cli.verbs
    from pcm.distribution import publication  # noqa: PLC0415
    from pcm.trust.keyring import Keyring  # noqa: PLC0415

    keyring = Keyring(signing.keys, passphrase(signing.passphrase_file, new=False))
    with settings.connect() as api:
        who = packager(api, settings.find_site(), signing.team, keyring, signing.root_file)
        release = made.description.release or publication.next_release(who, made.description.package.package)
        package = made.description.with_files(made.files, release)
        if dry_run:
            publication.verify_team(who)
            text = f"{made.title}, release {release}: team {who.team} could publish it now. Nothing was changed."
            show.print_done(settings, text, package=package.package, version=package.version, release=release)
            return
        with progress("Uploading", settings.output) as advance:
            manifest, answer = publication.publish_package(
                who, made.directory, package, lambda at: advance(at.bytes_done, at.bytes_total, at.path)
            )
    if show.print_data(answer, settings.output):
        return
    click.echo(
        f"Published {made.title}, release {manifest.release}, by team {who.team}: {show.count(len(package.files), 'file')}, "
        f"{show.size(package.content_bytes())}."
    )
    first = next(iter(package.programs))
    click.echo(f"Next: pcm job create {package.package} --group all --program {first}")


def withdraw(settings: Settings, name: str, version: str, signing: Signing) -> None:
    """Take a version back."""
    from pcm.cli.publishing import packager  # noqa: PLC0415 - see cli.verbs
    from pcm.distribution import publication  # noqa: PLC0415
    from pcm.trust.keyring import Keyring  # noqa: PLC0415

    keyring = Keyring(signing.keys, passphrase(signing.passphrase_file, new=False))
    with settings.connect() as api:
        who = packager(api, settings.find_site(), signing.team, keyring, signing.root_file)
        confirm(
            settings,
            f"{name} {version} of team {who.team} will be withdrawn: every client refuses it from then on, open jobs included. "
            "What is installed stays.",
        )
        answer = publication.withdraw_version(who, name, version)
    if not show.print_data(answer, settings.output):
        click.echo(f"Withdrawn: {', '.join(answer.withdrawn) or f'{name} {version}'}.")


def refresh(settings: Settings, signing: Signing) -> None:
    """Sign a team's list again."""
    from pcm.cli.publishing import packager  # noqa: PLC0415 - see cli.verbs
    from pcm.distribution import publication  # noqa: PLC0415
    from pcm.trust.keyring import Keyring  # noqa: PLC0415

    keyring = Keyring(signing.keys, passphrase(signing.passphrase_file, new=False))
    with settings.connect() as api:
        who = packager(api, settings.find_site(), signing.team, keyring, signing.root_file)
        answer = publication.sign_again(who)
    if not show.print_data(answer, settings.output):
        click.echo(f"Signed the list of team {who.team} again: version {answer.version}.")


def show_versions(settings: Settings, detail: PackageDetail) -> None:
    """Show a package and all its versions."""
    if show.print_data(detail, settings.output):
        return
    package = detail.package
    facts = (
        ("package", package.name),
        ("summary", show.plain(package.summary)),
        ("publisher", package.publisher),
        ("team", package.team),
    )
    show.print_facts(facts)
    rows = [
        (
            show.plain(version.version),
            version.release,
            "withdrawn" if version.withdrawn else "published",
            show.ago(version.published),
            ", ".join(version.platforms),
            ", ".join(program.name for program in version.programs),
            version.files,
            show.size(version.bytes),
        )
        for version in detail.versions
    ]
    columns = ("version", ">release", "state", "published", "~platforms", "~programs", ">files", ">size")
    show.print_table(columns, rows, none="No version is left.")


def show_version(settings: Settings, detail: VersionDetail) -> None:
    """Show one version and its programs."""
    if show.print_data(detail, settings.output):
        return
    version = detail.version
    show.print_facts(
        (
            ("package", detail.package.name),
            ("version", show.plain(version.version)),
            ("release", version.release),
            ("published", version.published),
            ("withdrawn", version.withdrawn),
            ("team", version.team),
            ("platforms", ", ".join(version.platforms)),
            ("files", f"{version.files} ({show.size(version.bytes)})"),
            ("manifest", version.manifest.sha256),
        )
    )
    rows = [
        (p.name, show.plain(" ".join(p.argv)), p.run_as, p.approvals or "", p.user_requestable)
        for p in version.programs
    ]
    show.print_table(("program", "~command", "runs as", ">approvals", "users may ask"), rows, none="")
    places = [(each.server, each.state, show.ago(each.complete), each.error) for each in detail.deliveries]
    if places:
        show.print_table(("server", "state", "complete since", "last error"), places, none="")
