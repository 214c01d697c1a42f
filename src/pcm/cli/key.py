"""`pcm key`: init, add, rotate, revoke, renew, policy, sign, publish, status. The life of a site's keys (steps 2 and 5).

A change goes round: it is staged in a folder (`add`, `rotate`, `revoke`, `renew`, `policy`), the folder is carried to each
keeper's keyring (`sign`), and once enough have signed it takes effect (`publish`). Nothing before `publish` touches the site.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from securesystemslib.signer import SSlibKey

from pcm.cli import show
from pcm.cli.api import Api, segment
from pcm.cli.ask import confirm, passphrase
from pcm.cli.ceremony import INSTRUCTIONS_ROOT, PACKAGES_ROOT, POLICY, ROLES, TARGETS, CeremonyFolder
from pcm.cli.duration import DURATION
from pcm.cli.settings import Settings
from pcm.cli.status import warn_of
from pcm.cli.verbs import Noun
from pcm.model.errors import RequestError
from pcm.protocol import policy as site_policy
from pcm.protocol.admin import KeysStatus, MetadataUpload, RoleView, TargetFile, expiring
from pcm.protocol.admin_packages import TeamView
from pcm.protocol.printable import printable
from pcm.trust import ceremony
from pcm.trust.keyring import Keyring

FOLDER = click.Path(file_okay=False, path_type=Path)
PUBLIC = click.Path(dir_okay=False, path_type=Path)
STAGED = click.option(
    "--in", "staged", type=FOLDER, required=True, help="The ceremony's folder; made if it is not there."
)
ROLE = click.argument("role", metavar="ROLE")
ROLE_HELP = f"ROLE: {', '.join(ROLES)}."


@click.group("key", cls=Noun)
def command() -> None:
    """Keys and signing ceremonies."""


@command.command("init")
@click.argument("names", nargs=-1, required=True)
@click.option("--keys", type=FOLDER, required=True, envvar="PCM_KEYS", help="The keyring's folder.")
@click.option("--passphrase-file", metavar="FILE", help="First line: the keyring's passphrase. '-': standard input.")
@click.option("--no-passphrase", is_flag=True, help="Keep them in the clear: for online keys on the site server only.")
@click.pass_obj
def init(
    settings: Settings, names: tuple[str, ...], keys: Path, passphrase_file: str | None, no_passphrase: bool
) -> None:
    """Make key pairs in a keyring.

    NAMES: team-NAME, approver-NAME, root-4, targets; on the site server online.2, policy.2, lease-NAME.2.
    """
    keyring = Keyring(keys, None if no_passphrase else passphrase(passphrase_file, new=True))
    made = [(name, keyring.create(name).keyid, str(keys / f"{name}.json")) for name in names]
    if show.print_data([{"name": n, "keyid": keyid, "public": file} for n, keyid, file in made], settings.output):
        return
    for name, keyid, file in made:
        click.echo(f"{name}  {keyid[:16]}  public: {file}")
    click.echo("Give the .json to whoever leads the ceremony; the .pem never leaves this keyring.")


def _begin(settings: Settings, staged: Path, role: str = "") -> CeremonyFolder:
    """The ceremony's folder, with what counts now in it."""
    folder = CeremonyFolder(staged)
    team = role.removeprefix("team-") if role.startswith("team-") else None
    if folder.begun and team is None:
        return folder
    with settings.connect() as api:
        if not folder.begun:
            folder.begin(api.get("/keys", KeysStatus))
        if team is not None:
            _keep_team(folder, team, lambda: api.get(f"/teams/{segment(team)}", TeamView))
    return folder


def _keep_team(folder: CeremonyFolder, team: str, ask: Callable[[], TeamView]) -> None:
    try:
        listed = ask().metadata
    except RequestError as error:
        if error.code != "not_found":
            raise
        return  # a new team: it has published nothing yet
    if listed is not None:
        folder.keep_team(team, listed)


def _public(path: Path) -> SSlibKey:
    return Keyring(path.parent).public(path.stem)


@command.command("add", help=f"Stage a new key for ROLE. {ROLE_HELP}")
@ROLE
@click.argument("public", type=PUBLIC)
@click.option("--threshold", type=click.IntRange(1, 20), help="How many of the role's keys must sign from now on.")
@STAGED
@click.pass_obj
def add(settings: Settings, role: str, public: Path, threshold: int | None, staged: Path) -> None:
    """Stage a new key for a role."""
    folder = _begin(settings, staged, role)
    folder.change(role, add=_public(public), threshold=threshold)
    _next(settings, folder)


@command.command(
    "rotate", help=f"Stage a new key for ROLE in the place of OLD (a name, or the beginning of an id). {ROLE_HELP}"
)
@ROLE
@click.argument("old")
@click.argument("public", type=PUBLIC)
@STAGED
@click.pass_obj
def rotate(settings: Settings, role: str, old: str, public: Path, staged: Path) -> None:
    """Stage a new key in the place of an old one."""
    folder = _begin(settings, staged, role)
    folder.change(role, add=_public(public), remove=old)
    _next(settings, folder)


@command.command("revoke", help=f"Stage that KEY of ROLE (or, for a team, --all its keys) counts no more. {ROLE_HELP}")
@ROLE
@click.argument("key", required=False)
@click.option("--all", "every", is_flag=True, help="A whole team: clients will refuse all its packages.")
@STAGED
@click.pass_obj
def revoke(settings: Settings, role: str, key: str | None, every: bool, staged: Path) -> None:
    """Stage that a key counts no more."""
    if (key is None) != every or (every and not role.startswith("team-")):
        raise RequestError("Name one KEY, or a team with --all.", code="usage")
    folder = _begin(settings, staged, role)
    if every:
        folder.revoke_team(role.removeprefix("team-"))
    else:
        folder.change(role, remove=key)
    _next(settings, folder)


@command.command("renew")
@click.argument("role", type=click.Choice(["root", "targets"]))
@STAGED
@click.pass_obj
def renew(settings: Settings, role: str, staged: Path) -> None:
    """Stage the root (of both repositories) or the targets unchanged, for another year."""
    folder = _begin(settings, staged)
    folder.renew(role)
    _next(settings, folder)


@command.command("policy")
@click.option("--spread", type=DURATION, help="Mandatory work starts across the fleet over this time.")
@click.option("--pilot-share", type=click.FloatRange(0, 1), help="Share of clients that start at once: 0.05 is 5 %.")
@click.option("--min-age", type=DURATION, help="How old a manifest must be outside the pilot share.")
@click.option(
    "--emergency-approvals", type=click.IntRange(0, 20), help="How many approvers lift spread and age. 0: nobody."
)
@STAGED
@click.pass_obj
def policy(
    settings: Settings,
    spread: int | None,
    pilot_share: float | None,
    min_age: int | None,
    emergency_approvals: int | None,
    staged: Path,
) -> None:
    """Stage a change of the brake, which every client enforces by itself."""
    given = {
        "spread_s": spread,
        "pilot_share": pilot_share,
        "min_age_s": min_age,
        "emergency_approvals": emergency_approvals,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise RequestError(
            "Say what changes: --spread, --pilot-share, --min-age or --emergency-approvals.", code="usage"
        )
    folder = _begin(settings, staged)
    folder.change_policy(**changes)
    _next(settings, folder)


@command.command("sign")
@STAGED
@click.option("--keys", type=FOLDER, required=True, envvar="PCM_KEYS", help="Your keyring.")
@click.option("--passphrase-file", metavar="FILE", help="First line: the keyring's passphrase. '-': standard input.")
@click.pass_obj
def sign(settings: Settings, staged: Path, keys: Path, passphrase_file: str | None) -> None:
    """Sign what is staged, with every key of your keyring that counts. Shows first what you are about to sign."""
    folder = CeremonyFolder(staged)
    documents = folder.staged()
    if not documents:
        raise RequestError(f"Nothing is staged in {staged}.", code="not_found")
    if settings.output == "table":  # programs get what came of it
        _show_staged(settings, folder)
    confirm(settings, "You are about to sign this.")
    done = folder.sign(Keyring(keys, passphrase(passphrase_file, new=False)))
    if not done:
        raise RequestError(f"No key in {keys} counts for what is staged in {staged}.", code="not_allowed")
    if settings.output == "table":
        for line in done:
            click.echo(line)
    _next(settings, folder)


@command.command("publish")
@STAGED
@click.pass_obj
def publish(settings: Settings, staged: Path) -> None:
    """Hand what enough keepers have signed to the site: it takes effect."""
    folder = CeremonyFolder(staged)
    documents = folder.staged()
    if not documents:
        raise RequestError(f"Nothing is staged in {staged}.", code="not_found")
    finished = {name: document.finish() for name, document in documents.items()}
    with settings.connect() as api:
        _follow_teams(api, folder)
    for at in folder.statuses().values():
        ceremony.check_complete(at)
    confirm(settings, f"These will count from now on: {', '.join(finished)}.")
    body = folder.policy()
    files = () if body is None else (TargetFile(site_policy.TARGET, body),)
    with settings.connect() as api:
        if INSTRUCTIONS_ROOT in finished:
            api.post("/metadata", MetadataUpload("instructions", "root", finished[INSTRUCTIONS_ROOT]), None)
        if PACKAGES_ROOT in finished:
            api.post("/metadata", MetadataUpload("packages", "root", finished[PACKAGES_ROOT]), None)
        if TARGETS in finished:
            upload = MetadataUpload("packages", "targets", finished[TARGETS], files, folder.teams())
            api.post("/metadata", upload, None)
    text = f"Published: {', '.join(finished)}. Keep {staged} with your records."
    show.print_done(settings, text, documents=list(finished))


def _follow_teams(api: Api, folder: CeremonyFolder) -> None:
    """Look whether teams that get other keys have published since, before anything is handed in.

    Raises:
        RequestError: `conflict`: one has, and must sign its newest list.
    """
    for team in folder.changed_teams():
        listed = api.get(f"/teams/{segment(team)}", TeamView).metadata
        name = f"team-{team}.json"
        if listed is not None and folder.keep_team(team, listed) and name in folder.statuses():
            raise RequestError(
                f"Team {team} has published since this ceremony began. Its newest list is here now; the team must sign it: "
                f"pcm key sign --in {folder.folder} --keys KEYRING-OF-{team}",
                code="conflict",
            )


@command.command("status")
@click.option("--in", "staged", type=FOLDER, help="Show a ceremony: who has signed, and who is missing.")
@click.pass_obj
def status(settings: Settings, staged: Path | None) -> None:
    """Show who signs what, until when; or, with --in, where a ceremony stands."""
    if staged is not None:
        _show_staged(settings, CeremonyFolder(staged))
        return
    with settings.connect() as api:
        keys = api.get("/keys", KeysStatus)
    if show.print_data({"instructions": keys.instructions, "packages": keys.packages}, settings.output):
        return
    for title, roles in (
        ("Instructions: what each client should do", keys.instructions),
        ("Packages: what may run", keys.packages),
    ):
        show.print_table(
            ("role", ">must sign", "~keys", ">version", "until"), map(_role_row, roles), none="", title=title
        )
    brake = site_policy.read_policy(keys.policy)
    click.echo(
        f"Brake: spread {brake.spread_s} s, pilot share {brake.pilot_share:.0%}, least age {brake.min_age_s} s, "
        f"approvers: {', '.join(approver.name for approver in brake.approvers) or 'none'}."
    )
    now = datetime.now(UTC)
    warn_of((*expiring("instructions", keys.instructions, now), *expiring("packages", keys.packages, now)))


def _role_row(role: RoleView) -> tuple[object, ...]:
    keys = ", ".join(f"{key.name} ({key.keyid[:8]})" for key in role.keys)
    return (role.role, f"{role.threshold} of {len(role.keys)}", show.plain(keys), role.version or None, role.expires)


def _show_staged(settings: Settings, folder: CeremonyFolder) -> None:
    documents = folder.statuses()
    if not documents:
        raise RequestError(f"Nothing is staged in {folder.folder}.", code="not_found")
    if show.print_data(documents, settings.output):
        return
    for name, at in documents.items():
        rows = [
            (role.role, role.threshold, show.plain(", ".join(f"{n} ({k[:8]})" for n, k in role.keys.items())))
            for role in at.roles
        ]
        title = f"{name}: version {at.version}, until {show.moment(at.expires)}"
        if rows:
            show.print_table(("role", ">must sign", "keys"), rows, none="", title=title)
        else:
            click.echo(f"{title}. Its team's keys change, so the team signs its list anew.")
        for needed in at.requirements:
            click.echo(f"  {_requirement(needed)}")
    if folder.policy() is not None:
        click.echo(f"\n{POLICY}: {printable((folder.policy() or b'').decode())}")


def _requirement(needed: ceremony.Requirement) -> str:
    head = printable(
        f"{needed.source}: {len(needed.signed)} of {needed.threshold} signatures ({', '.join(needed.signed) or 'nobody yet'})"
    )
    if not needed.missing:
        return click.style("✓ ", fg="green") + head
    return (
        click.style("… ", fg="yellow") + head + printable(f"; can still sign: {', '.join(needed.unsigned) or 'nobody'}")
    )


def _next(settings: Settings, folder: CeremonyFolder) -> None:
    if settings.output != "table":
        _show_staged(settings, folder)
        return
    if all(at.complete for at in folder.statuses().values()):
        click.echo(f"Enough have signed. Next: pcm key publish --in {folder.folder}")
    else:
        click.echo(f"Staged in {folder.folder}. See it: pcm key status --in {folder.folder}")
        click.echo(f"Then each keeper: pcm key sign --in {folder.folder} --keys KEYS")
