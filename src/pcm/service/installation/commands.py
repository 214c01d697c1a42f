"""`pcmsvc install | repair | remove` for `main`: parse, do, show, nothing else. Imported only when one of them is given."""

import argparse
import sys
import time
from collections.abc import Callable

from pcm.model.errors import RequestError
from pcm.service import printing as show
from pcm.service.enrolment import Enrolled
from pcm.service.installation.install import Installed, Wish, install, repair, require_rights
from pcm.service.installation.layout import SERVICE, Layout, own_tree
from pcm.service.installation.measures import Host, installed_here, is_enrolled
from pcm.service.installation.remove import remove
from pcm.service.installation.trials import LEAST_PATIENCE_S, MOST_PATIENCE_S, PATIENCE_S
from pcm.service.installation.watch import watch
from pcm.service.kit_files import read_kit_file, read_token
from pcm.service.machine.here import this_machine, this_registration
from pcm.service.places import Places
from pcm.service.requirements import check_requirements
from pcm.service.worker import DONE, FAILED, utc_now


def run_install(parsed: argparse.Namespace, places: Places) -> int:
    """`pcmsvc install`: exit code 0 if everything that was asked for is so."""
    host = _host(places)
    require_rights(host)
    kit = None if parsed.kit is None else read_kit_file(parsed.kit)
    token = read_token(parsed.token, parsed.token_file)
    if token is not None and kit is None:
        raise RequestError("A token is of use with a kit only: give --kit FILE too.", code="usage")
    trial_s = 0 if parsed.no_trial else _trial_seconds(parsed.trial)
    wish = Wish(kit, token, parsed.keep_newer, parsed.dry_run, parsed.again, trial_s)
    result = install(host, wish, utc_now, _teller(parsed))
    if parsed.dry_run:
        return _end(parsed, result)
    waiting = result.enrolled is not None and result.enrolled.pending
    return _end(parsed, result, _unmet(parsed, host, ask_servers=not waiting))


def run_repair(parsed: argparse.Namespace, places: Places) -> int:
    """`pcmsvc repair`: exit code 0 if everything holds then."""
    host = _host(places)
    result = repair(host, _teller(parsed), dry_run=parsed.dry_run)
    if parsed.dry_run:
        return _end(parsed, result)
    return _end(parsed, result, _unmet(parsed, host, ask_servers=True))


def run_watch(_parsed: argparse.Namespace, places: Places) -> int:
    """`pcmsvc watch-update`: exit code 0 once the trial is over. Started by the unit that `install` makes."""
    host = _host(places)
    require_rights(host)

    def say(told: str) -> None:
        sys.stderr.write(f"pcmsvc: {told}\n")
        sys.stderr.flush()

    watch(host, utc_now, time.monotonic, time.sleep, say)
    return DONE


def _trial_seconds(text: str | None) -> int:
    if text is None:
        return PATIENCE_S
    amount, unit = text[:-1], {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    seconds = int(amount) * unit if unit and amount.isascii() and amount.isdigit() and len(amount) <= 6 else 0
    if not LEAST_PATIENCE_S <= seconds <= MOST_PATIENCE_S:
        raise RequestError(f"{text!r} is no time for a trial: write 15m, 2h or 1d, from 30s to 7d.", code="usage")
    return seconds


def run_remove(parsed: argparse.Namespace, places: Places) -> int:
    """`pcmsvc remove`: exit code 0 if the service is gone."""
    did = remove(
        _host(places), utc_now, _teller(parsed), purge=parsed.purge, wait=parsed.wait, keep_program=parsed.keep_program
    )
    return _end(parsed, Installed(did))


def start_installed(places: Places) -> None:
    """After an enrolment by hand: the service of an installed client starts, which had nothing to do until now."""
    if places.home is None and own_tree() is not None:
        registration = this_registration()
        if registration.service(SERVICE).enabled:
            registration.start(SERVICE)


def _host(places: Places) -> Host:
    if places.home is not None:
        raise RequestError(
            "A client in a folder of its own (--home) needs no installation: pcmsvc --home DIR enroll, then once or run.",
            code="usage",
        )
    return Host(Layout(), places, this_machine(), this_registration())


def _teller(parsed: argparse.Namespace) -> Callable[[str], None]:
    begin = "would be: " if getattr(parsed, "dry_run", False) else ""

    def tell(told: str) -> None:
        if not parsed.json:
            sys.stdout.write(f"{begin}{told}\n")
            sys.stdout.flush()

    return tell


def _unmet(parsed: argparse.Namespace, host: Host, *, ask_servers: bool) -> list[str]:
    """The check at the end. Names of what does not hold; a computer without a site is not yet asked for one."""
    found = check_requirements(host.places, host.machine, utc_now, ask_servers=ask_servers)
    found += installed_here(host.places)
    if not is_enrolled(host.places):
        found = [each for each in found if each.holds or each.name not in {"enrolled", "key", "pinned roots"}]
        if not parsed.json:
            sys.stdout.write("Not yet a client of a site: pcmsvc install --kit FILE --token TOKEN\n")
    if not parsed.json:
        show.requirements(found, as_json=False)
    return [each.name for each in found if not each.holds]


def _end(parsed: argparse.Namespace, result: Installed, unmet: list[str] | None = None) -> int:
    if parsed.json:
        document: dict[str, object] = {"done": result.done, "dry_run": getattr(parsed, "dry_run", False)}
        if unmet is not None:
            document["unmet"] = unmet
        if result.enrolled is not None:
            document["enrolled"] = _described(result.enrolled)
        show.json_line(document)
    elif not result.done:
        sys.stdout.write("Nothing had to be done.\n")
    return FAILED if unmet else DONE


def _described(enrolled: Enrolled) -> dict[str, object]:
    identity = enrolled.identity
    return {"client_id": identity.client_id, "fingerprint": identity.fingerprint(), "pending": enrolled.pending}
