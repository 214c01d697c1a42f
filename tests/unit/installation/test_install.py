"""Installing, mending and removing on a computer in a folder: in order, again and again, and not at all where it must not be."""

import json
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from pcm.model.errors import MachineError, PcmError, RequestError
from pcm.protocol import codec
from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.configuration import load_configuration
from pcm.service.enrolment import Kit
from pcm.service.enrolment import install as configure
from pcm.service.installation import layout as layouts
from pcm.service.installation import measures as measuring
from pcm.service.installation.install import Wish, install, repair
from pcm.service.installation.layout import current_version
from pcm.service.installation.measures import MARK, NETWORK_ACCOUNT, Host, requirements
from pcm.service.installation.remove import remove
from pcm.service.places import create_places
from pcm.service.state import State
from tests.unit.installation.making import RememberedComputer, make_host, make_tree
from tests.unit.trust.simulated import SimulatedSite, named

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
ROOT = json.dumps({"signed": {"_type": "root"}})


def clock() -> datetime:
    return NOON


def quiet(_: str) -> None:
    return None


def come_from(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    """Let the code think that it belongs to this tree."""
    monkeypatch.setattr(layouts, "own_tree", lambda: tree)


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, RememberedComputer]:
    """A computer on which a tree of version 1.0 was unpacked and is asked to install itself."""
    host, remembered = make_host(tmp_path / "root")
    make_tree(tmp_path / "unpacked", "1.0")
    come_from(monkeypatch, tmp_path / "unpacked")
    # the checkout that the test runs from is no part of the installation
    monkeypatch.setattr("pcm.service.places._own_program", tuple)
    return host, remembered


def unmet(host: Host) -> set[str]:
    found = list(requirements(host))
    assert all(each.remedy for each in found if not each.holds)
    return {each.name for each in found if not each.holds}


def enrol(host: Host, site: str = "lab", roots: tuple[str, str] = (ROOT, ROOT)) -> ClientConfiguration:
    """A configuration as an enrolment leaves it."""
    configuration = ClientConfiguration(
        site=site,
        logon=("http://a/logon",),
        distribution=("http://a/d",),
        instructions_root=roots[0],
        packages_root=roots[1],
    )
    create_places(host.places)
    configure(host.places, configuration)
    return configuration


def test_q169476_q174648_a_fresh_computer_gets_everything_and_then_nothing_more(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, remembered = computer
    told: list[str] = []
    result = install(host, Wish(), clock, told.append)
    assert result.done == told
    assert result.enrolled is None
    assert unmet(host) == set()
    assert current_version(host.layout) == "1.0"
    assert remembered.accounts == {NETWORK_ACCOUNT}
    assert (remembered.enabled, remembered.active) == (True, False)  # no site yet: nothing to run
    assert host.layout.own_unit.read_text() == f"{MARK}: 1.0\n"
    assert (host.layout.root / "usr/bin/pcmsvc").readlink() == Path("/opt/pcm/current/bin/pcmsvc")
    remembered.calls.clear()
    for again in (install(host, Wish(), clock, quiet), repair(host, quiet)):
        assert again.done == []
    assert remembered.calls == []


def test_a_dry_run_says_the_same_and_changes_nothing(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    before = sorted(host.layout.root.rglob("*"))
    planned = install(host, Wish(dry_run=True), clock, quiet)
    assert sorted(host.layout.root.rglob("*")) == before
    assert remembered.calls == []
    done = install(host, Wish(), clock, quiet)
    # the program's own measures can be looked at only once it is there
    assert planned.done[:2] == done.done[:2]
    assert planned.done[0].startswith("placed 4 files in ")


def test_an_enrolled_computer_is_started_and_restarted_for_another_version(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, remembered = computer
    enrol(host)
    install(host, Wish(), clock, quiet)
    assert remembered.active
    remembered.calls.clear()
    make_tree(tmp_path / "newer", "1.1")
    come_from(monkeypatch, tmp_path / "newer")
    done = install(host, Wish(), clock, quiet).done
    assert "version 1.1 is in use instead of 1.0" in done
    assert remembered.calls[-1] == "restart"
    assert "reload" in remembered.calls
    assert host.layout.own_unit.read_text() == f"{MARK}: 1.1\n"
    assert unmet(host) == set()
    assert sorted(path.name for path in host.layout.versions.iterdir()) == ["1.0", "1.1"]


def test_a_service_that_was_switched_off_stays_off(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, remembered = computer
    enrol(host)
    install(host, Wish(), clock, quiet)
    remembered.enabled = remembered.active = False
    make_tree(tmp_path / "newer", "1.1")
    come_from(monkeypatch, tmp_path / "newer")
    install(host, Wish(), clock, quiet)
    assert (remembered.enabled, remembered.active) == (False, False)
    assert unmet(host) == {"service at boot", "service"}
    repair(host, quiet)
    assert unmet(host) == set()


def test_an_older_version_is_refused_or_left_alone(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    make_tree(tmp_path / "older", "0.9")
    come_from(monkeypatch, tmp_path / "older")
    with pytest.raises(RequestError, match=r"Version 1\.0 is here, which is newer than 0\.9") as caught:
        install(host, Wish(), clock, quiet)
    assert caught.value.code == "installation.downgrade"
    assert install(host, Wish(keep_newer=True), clock, quiet).done == []
    assert current_version(host.layout) == "1.0"


def test_what_must_be_refused_is_refused_before_anything_changes(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, remembered = computer
    before = sorted(host.layout.root.rglob("*"))

    def refused(code: str, wish: Wish | None = None, who: Host = host) -> None:
        with pytest.raises(PcmError) as caught:
            install(who, wish or Wish(), clock, quiet)
        assert caught.value.code == code
        assert sorted(host.layout.root.rglob("*")) == before
        assert remembered.calls == []

    nobody, _ = make_host(tmp_path / "other", administrator=False)
    refused("machine.rights", who=nobody)
    make_tree(tmp_path / "foreign", "1.0")
    described = (tmp_path / "foreign" / "release.json").read_text()
    (tmp_path / "foreign" / "release.json").write_text(described.replace('"linux-', '"plan9-'))
    come_from(monkeypatch, tmp_path / "foreign")
    refused("installation.platform")
    monkeypatch.setattr(layouts, "own_tree", lambda: None)
    refused("installation.source")


def test_a_kit_of_another_site_is_refused(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, _ = computer
    configuration = enrol(host)
    other = codec.decode(ClientConfiguration, codec.encode(configuration).replace(b'"lab"', b'"pub"'), max_bytes=10**6)
    with pytest.raises(RequestError) as caught:
        install(host, Wish(Kit(other, None)), clock, quiet)
    assert caught.value.code == "conflict"
    assert current_version(host.layout) is None


def test_a_kit_of_another_site_with_the_same_name_is_refused_and_one_from_after_a_ceremony_is_not(
    computer: tuple[Host, RememberedComputer],
) -> None:
    """After a ceremony the setup of a site carries its newer root: an existing client is upgraded all the same."""
    host, _ = computer
    ours, theirs = SimulatedSite(), SimulatedSite()
    first = enrol(host, roots=(ours.instruction_roots[0].decode(), ours.package_roots[0].decode()))
    kept = host.places.configuration.read_bytes()
    staged = ours.next_root("instructions")
    staged.add_key("root", named("root-4").public_key)
    second = ours.sign_root(staged).decode()

    def kit(instructions: str, packages: str) -> Kit:
        changed = structs.replace(first, logon=("http://b/l",), instructions_root=instructions, packages_root=packages)
        return Kit(changed, None)

    theirs_too = theirs.instruction_roots[0].decode(), theirs.package_roots[0].decode()
    changed = json.loads(second)
    changed["signed"]["version"] = 3
    forged = structs.replace(first, instructions_root=json.dumps(changed))
    for bad in (
        kit(*theirs_too),
        kit(theirs_too[0], first.packages_root),
        kit(first.packages_root, first.instructions_root),
        kit(ROOT, first.packages_root),
        Kit(forged, None),
    ):
        with pytest.raises(RequestError) as caught:
            install(host, Wish(bad), clock, quiet)
        assert caught.value.code == "conflict"
        assert current_version(host.layout) is None
    told: list[str] = []
    install(host, Wish(kit(second, first.packages_root)), clock, told.append)
    assert "the configuration here stays" in told[0]
    assert host.places.configuration.read_bytes() == kept
    assert current_version(host.layout) == "1.0"


def test_a_newer_kit_brings_servers_and_asks_nobody(computer: tuple[Host, RememberedComputer]) -> None:
    host, _ = computer
    enrol(host)
    newer = ClientConfiguration(
        site="lab", logon=("http://b/logon",), distribution=("http://b/d",), instructions_root=ROOT, packages_root=ROOT
    )
    install(host, Wish(Kit(newer, "a token that nobody needs")), clock, quiet)
    assert b"http://b/logon" in host.places.configuration.read_bytes()
    assert unmet(host) == set()


def test_every_measure_is_tried_although_one_cannot_be_mended(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    remembered.refuse = {"create_account"}
    with pytest.raises(MachineError, match="create_account was refused"):
        install(host, Wish(), clock, quiet)
    assert unmet(host) == {"network account", "service at boot"}
    remembered.refuse = set()
    install(host, Wish(), clock, quiet)
    repair(host, quiet)
    assert unmet(host) == set()


def test_a_foreign_file_under_our_name_is_named_and_not_touched(computer: tuple[Host, RememberedComputer]) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    command = host.layout.root / "usr/bin/pcmapp"
    command.unlink()
    command.write_text("somebody's own\n")
    host.layout.own_unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert unmet(host) == {"commands", "service definition"}
    with pytest.raises(MachineError, match="is a file of something else; move it away") as caught:
        repair(host, quiet)
    assert caught.value.code == "conflict"
    assert command.read_text() == "somebody's own\n"
    assert host.layout.own_unit.read_text().startswith("[Service]")


@pytest.mark.parametrize(("debian", "zsh"), [(True, "vendor-completions"), (False, "site-functions")])
def test_shells_find_what_completes_the_commands_of_the_version_in_use(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debian: bool, zsh: str
) -> None:
    host, _ = computer
    if debian:
        (host.layout.root / "etc" / "debian_version").touch()
    made = [f"share/completions/{name}.{shell}" for name in ("pcmsvc", "pcmapp") for shell in ("bash", "zsh", "fish")]
    make_tree(tmp_path / "with", "1.0", dict.fromkeys(made, b"complete\n"))
    come_from(monkeypatch, tmp_path / "with")
    shared = host.layout.root / "usr" / "share"
    foreign = shared / "bash-completion" / "completions" / "pcmapp"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("somebody's own\n")
    before = os.umask(0o077)  # as the setup has it
    try:
        install(host, Wish(), clock, quiet)
    finally:
        os.umask(before)
    assert unmet(host) == set()
    for name in (f"zsh/{zsh}/_pcmsvc", "fish/vendor_completions.d/pcmapp.fish", "bash-completion/completions/pcmsvc"):
        path = shared / name
        assert (host.layout.root / str(path.readlink()).lstrip("/")).read_text() == "complete\n"
        assert {each.stat().st_mode & 0o777 for each in path.parents if each.is_relative_to(shared)} == {0o755}
    assert foreign.read_text() == "somebody's own\n"
    (shared / "fish/vendor_completions.d/pcmapp.fish").unlink()
    assert unmet(host) == {"commands"}
    repair(host, quiet)
    assert unmet(host) == set()
    remove(host, clock, quiet)
    assert [path for path in shared.rglob("*") if not path.is_dir()] == [foreign]
    assert not (shared / "fish").exists()


def test_a_masked_service_is_named(computer: tuple[Host, RememberedComputer]) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    host.layout.own_unit.unlink()
    host.layout.own_unit.symlink_to(os.devnull)
    (problem,) = [each for each in requirements(host) if not each.holds]
    assert "masked" in problem.message
    with pytest.raises(MachineError, match="systemctl unmask pcmsvc"):
        repair(host, quiet)


def test_the_packages_own_definition_counts_while_its_version_is_in_use(
    computer: tuple[Host, RememberedComputer], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = computer
    make_tree(host.layout.package, "1.0")
    come_from(monkeypatch, host.layout.package)
    host.layout.packaged_unit.parent.mkdir(parents=True)
    host.layout.packaged_unit.write_text(f"{MARK}: 1.0\n")
    install(host, Wish(), clock, quiet)
    assert not host.layout.own_unit.exists()
    host.layout.packaged_unit.write_text("changed\n")
    assert unmet(host) == {"service definition"}
    repair(host, quiet)
    assert host.layout.packaged_unit.read_text() == f"{MARK}: 1.0\n"
    with pytest.raises(RequestError) as caught:
        remove(host, clock, quiet)
    assert caught.value.code == "installation.packaged"
    remove(host, clock, quiet, keep_program=True)
    assert host.layout.package.is_dir()
    assert current_version(host.layout) == "1.0"


def test_no_file_that_somebody_else_prepared_runs_as_its_new_owner(computer: tuple[Host, RememberedComputer]) -> None:
    """Made an administrator's as it was, a program with the set-user-id bit would give its maker an administrator's rights."""
    host, _ = computer
    install(host, Wish(), clock, quiet)
    prepared = host.places.database
    prepared.write_text("#!")
    prepared.chmod(0o6777)
    repair(host, quiet)
    assert prepared.stat().st_mode & 0o7777 == 0o600


def leave_it_open(path: Path) -> None:
    path.chmod(0o646)


def give_it_away(path: Path) -> None:
    os.chown(path, 1000, 1000)


DOUBTS = [leave_it_open, pytest.param(give_it_away, marks=pytest.mark.needs("root"))]


@pytest.mark.parametrize("doubt", DOUBTS)
@pytest.mark.parametrize("name", ["configuration", "instructions_root", "packages_root"])
def test_q181118_what_somebody_else_may_have_written_does_not_say_whom_to_obey(
    computer: tuple[Host, RememberedComputer], doubt: Callable[[Path], None], name: str
) -> None:
    """Taken over as it was, it would give its writer this computer: it is set aside, and the kit has to be given again."""
    host, _ = computer
    install(host, Wish(), clock, quiet)
    enrol(host)
    (suspect,) = [path for path in pinned(host) if path == getattr(host.places, name)]
    suspect.write_text(suspect.read_text().replace("http://a/", "http://mallory/"))
    doubt(suspect)
    owner = suspect.stat().st_uid
    assert "trusted files" in unmet(host)
    with pytest.raises(MachineError, match="pcmsvc install --kit") as caught:
        repair(host, quiet)
    assert caught.value.code == "installation.untrusted"
    assert str(suspect) in caught.value.message
    assert [path for path in pinned(host) if path.exists()] == []  # what decides together, goes together
    aside = suspect.with_name(f"{suspect.name}.untrusted-1")
    assert aside.stat().st_uid == owner  # for whoever wants to know what happened
    assert unmet(host) == set()
    assert repair(host, quiet).done == []
    kit = enrol(host)
    assert load_configuration(host.places) == kit


def pinned(host: Host) -> list[Path]:
    return [host.places.configuration, host.places.instructions_root, host.places.packages_root]


@pytest.mark.parametrize("doubt", DOUBTS)
def test_an_account_that_others_could_write_is_given_anew_and_the_client_stays_one(
    computer: tuple[Host, RememberedComputer], doubt: Callable[[Path], None]
) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    enrol(host)
    host.places.account.write_text("{}")
    doubt(host.places.account)
    with pytest.raises(MachineError, match=r"account\.json.*write it again"):
        repair(host, quiet)
    assert not host.places.account.exists()
    assert all(path.exists() for path in pinned(host))


def test_another_name_for_a_file_of_roots_is_not_believed_in_an_open_folder(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    enrol(host)
    os.link(host.places.configuration, host.layout.root / "elsewhere")
    repair(host, quiet)
    assert host.places.configuration.exists()  # an administrator's own business
    host.places.config.chmod(0o777)
    with pytest.raises(MachineError, match="another name"):
        repair(host, quiet)
    assert not host.places.configuration.exists()


def test_no_configuration_that_others_could_write_decides_about_a_kit(
    computer: tuple[Host, RememberedComputer],
) -> None:
    """A kit in hand, neither what was written there nor whose site it names matters any more."""
    host, _ = computer
    enrol(host, site="of mallory")
    host.places.configuration.chmod(0o666)
    kit = ClientConfiguration(
        site="lab", logon=("/nowhere",), distribution=("/nowhere",), instructions_root=ROOT, packages_root=ROOT
    )
    planned = install(host, Wish(Kit(kit, None), dry_run=True), clock, quiet)
    assert "site lab is asked to take this computer as a client" in planned.done


def test_folders_get_their_owners_and_modes_back(computer: tuple[Host, RememberedComputer]) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    enrol(host)
    host.places.state.chmod(0o777)
    host.places.store.chmod(0o755)
    host.places.configuration.chmod(0o664)  # root's own group may: no ordinary user
    assert "folders" in unmet(host)
    repair(host, quiet)
    assert unmet(host) == set()
    modes = [host.places.state, host.places.store, host.places.configuration]
    assert [path.stat().st_mode & 0o777 for path in modes] == [0o711, 0o700, 0o644]


def test_removing_keeps_what_the_client_is_and_purging_does_not(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    enrol(host)
    remembered.active = True
    told = remove(host, clock, quiet)
    assert "the service was stopped" in told
    assert (remembered.enabled, remembered.active) == (False, False)
    assert not host.layout.program.exists()
    assert not host.layout.own_unit.exists()
    assert list((host.layout.root / "usr/bin").iterdir()) == []
    assert host.places.configuration.exists()
    assert remembered.accounts == {NETWORK_ACCOUNT}
    assert remove(host, clock, quiet) == []
    remove(host, clock, quiet, purge=True)
    assert [path for path in (host.places.state, host.places.config) if path.exists()] == []
    assert remembered.accounts == set()
    assert remove(host, clock, quiet, purge=True) == []


def test_nothing_is_removed_while_a_program_runs(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    enrol(host)
    with State.open(host.places.state, NOON):
        pass
    with sqlite3.connect(host.places.database) as database:
        columns = (
            "run, instruction, generation, attempt, program, manifest_sha256, argv, run_as, started, reference, boot_id"
        )
        row = ("a1", "job-1", 1, 1, "install", "0" * 64, "[]", "system", NOON.isoformat(), "{}", "b")
        database.execute(f"INSERT INTO runs ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
    database.close()
    remembered.calls.clear()
    with host.machine.lock_instance(host.places.work_lock), pytest.raises(MachineError) as caught:
        remove(host, clock, quiet)
    assert caught.value.code == "machine.busy"
    assert "install of job-1" in caught.value.message
    assert remembered.calls == []
    assert current_version(host.layout) == "1.0"
    remove(host, clock, quiet)  # nobody works on it any more: it was cut off
    assert current_version(host.layout) is None


def test_a_link_instead_of_a_folder_is_not_followed_when_purging(
    computer: tuple[Host, RememberedComputer], tmp_path: Path
) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    precious = tmp_path / "precious"
    host.places.state.rename(precious)
    host.places.state.symlink_to(precious)
    with pytest.raises(MachineError, match="is a symbolic link"):
        remove(host, clock, quiet, purge=True)
    assert precious.is_dir()


def test_only_an_administrator_removes_or_repairs(tmp_path: Path) -> None:
    host, _ = make_host(tmp_path / "root", administrator=False)
    for attempt in (lambda: repair(host, quiet), lambda: remove(host, clock, quiet)):
        with pytest.raises(MachineError, match="Only an administrator") as caught:
            attempt()
        assert caught.value.code == "machine.rights"


def test_each_measure_has_a_name_of_its_own_and_a_remedy(computer: tuple[Host, RememberedComputer]) -> None:
    host, _ = computer
    listed = measuring.measures(host)
    assert len({measure.name for measure in listed}) == len(listed)
    assert all(measure.remedy and measure.holds for measure in listed)
