"""What may run? Brings the package repository, and judges each instruction against what packagers have signed.

Step 6 of 12, second half: after `inbox`, before `service.planner`. Checks 8 to 11 are `trust`'s; here they get their servers,
floors and this client's circumstances, and the verdicts are kept in one transaction with the repository's floors. Done when the
instructions changed, and again before anything runs, so that a withdrawn package is noticed at the last moment.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from pcm.model.assignment import State as Stage
from pcm.model.errors import PcmError, RequestError, StoreError, TransferError
from pcm.model.instruction import Instruction
from pcm.protocol.policy import SitePolicy, read_policy, write_policy
from pcm.service import faults
from pcm.service.content_records import held_manifests
from pcm.service.inbox import (
    OLDER_ORDER,
    PACKAGES_DUE,
    Desk,
    Refreshed,
    ask_in_order,
    metadata_folder,
    read_header,
    read_root,
    remove_other_folders,
)
from pcm.service.journal import Journal
from pcm.service.plan import Approved
from pcm.service.records import to_text, to_time
from pcm.service.sources import DISTRIBUTION, Servers
from pcm.service.state import State

if TYPE_CHECKING:
    from pcm.trust.cross_check import Circumstances

PACKAGES = "packages"
CURRENT_PACKAGES = "metadata.packages"
VALID_UNTIL = "packages.valid_until"
POLICY = "policy"
CLOSE = timedelta(hours=6)
# Not a fault of the order: the planner itself says 'not applicable' (KB Q156250)
_LEFT_TO_THE_PLANNER = frozenset({"trust.platform"})
_DONE = (Stage.SUCCEEDED, Stage.ALREADY_INSTALLED)


class Catalogue:
    """One check's view of the package repository.

    Args:
        desk: What it works with.
        platform: `linux-x86_64`.
    """

    def __init__(self, desk: Desk, platform: str) -> None:
        self._it = desk
        self._platform = platform

    def servers(self) -> Servers:
        """Distribution servers, as the newest instructions and the configuration name them."""
        header = read_header(self._it.state)
        ordered = header.servers.distribution if header else ()
        return Servers(self._it.state, DISTRIBUTION, ordered, self._it.configuration.distribution)

    def is_due(self) -> bool:
        """Whether to ask what packagers say: the instructions changed, signatures expire soon, or something was refused.

        A refusal may be one server's doing, so every check asks again until the order holds or is gone.
        """
        return bool(self._it.state.meta(PACKAGES_DUE)) or self.is_expired(CLOSE) or bool(self.refused())

    def refused(self) -> list[tuple[str, str, str]]:
        """What the last verdict refused: instruction id, code and reason of each."""
        refused = "SELECT id, verdict_code, verdict_reason FROM instructions WHERE present = 1 AND verdict_code NOT IN ('', ?)"
        return [(str(row[0]), str(row[1]), str(row[2])) for row in self._it.state.rows(refused, (OLDER_ORDER,))]

    def is_expired(self, ahead: timedelta = timedelta()) -> bool:
        """Whether the signatures on what is cached have expired (or will, so much later), or there is nothing."""
        until = self._it.state.meta(VALID_UNTIL)
        return not until or to_time(until) <= self._it.clock() + ahead

    def refresh(self) -> Refreshed:
        """Checks 8 to 11, from the first distribution server whose repository holds.

        Raises:
            StoreError: this disk.
        """
        return ask_in_order(self._it.state, self.servers(), self._it.network, self._it.clock(), self._refresh_from)

    def _refresh_from(self, server: str) -> bool:
        from pcm.trust.cross_check import cross_check, gather  # noqa: PLC0415 - loads tuf
        from pcm.trust.manifests import Manifests  # noqa: PLC0415
        from pcm.trust.packages import verify_packages  # noqa: PLC0415

        header = read_header(self._it.state)
        if header is None:
            return False
        number = int(self._it.state.meta(CURRENT_PACKAGES, "0"))
        fetch = self._it.network.public_files(server)
        packages = verify_packages(  # check 8
            self._it.configuration.site,
            read_root(self._it.places.packages_root),
            metadata_folder(self._it.places, PACKAGES, number),
            metadata_folder(self._it.places, PACKAGES, number + 1),
            stored=self._it.state.floors(PACKAGES),
            least=msgspec.structs.asdict(header.package_repository_min),
            fetch=fetch,
        )
        wanted = present_instructions(self._it.state)
        manifests = Manifests(self._it.places.metadata / "manifests", fetch)
        evidence = gather(wanted, packages.find, manifests.read)  # check 9
        around = self._circumstances(packages.policy)
        verdicts = {verdict.instruction.id: verdict for verdict in cross_check(wanted, evidence, around)}  # 9 to 11
        floors = packages.close()
        found = {
            instruction.id: (getattr(verdicts[instruction.id], "error", None), evidence[instruction.id])
            for instruction in wanted
        }
        faults.reach("packages.verified")
        with self._it.state.transaction():
            self._it.state.store_floors(PACKAGES, floors)
            self._it.state.set_meta(CURRENT_PACKAGES, str(number + 1))
            self._it.state.set_meta(VALID_UNTIL, to_text(packages.valid_until))
            self._it.state.set_meta(POLICY, write_policy(packages.policy).decode())
            self._it.state.set_meta(PACKAGES_DUE, "")
            changed = self._store_verdicts(wanted, found)
        faults.reach("packages.committed")
        manifests.forget_others({instruction.manifest.sha256 for instruction in wanted})
        remove_other_folders(self._it.places, PACKAGES, number + 1)
        return changed

    def _circumstances(self, policy: SitePolicy) -> "Circumstances":
        from pcm.trust.cross_check import Circumstances, Release  # noqa: PLC0415

        releases = {
            name: Release(known.release, known.min_release, known.installed)
            for name, known in self._it.state.releases().items()
        }
        done = [record for record in Journal(self._it.state).records() if record.state in _DONE]
        names = frozenset(name for record in done for name in (record.id, record.instruction.job))
        return Circumstances(self._it.client_id, self._platform, policy, self._it.clock(), releases, names)

    def _store_verdicts(
        self, wanted: Iterable[Instruction], found: Mapping[str, tuple[PcmError | None, bytes | PcmError]]
    ) -> bool:
        """Keep each verdict, and the manifests of what may run. What is not known yet stays as it was."""
        unknown = any(isinstance(error, TransferError) for error, _ in found.values())
        before = self._it.state.rows("SELECT id, verdict_code FROM instructions WHERE present = 1")
        with self._it.state.transaction() as connection:
            for instruction in wanted:
                error, body = found[instruction.id]
                if isinstance(error, TransferError) or (
                    unknown and error is not None and error.code == "trust.dependency"
                ):
                    continue
                refused = error is not None and error.code not in _LEFT_TO_THE_PLANNER
                connection.execute(
                    "UPDATE instructions SET verdict_code = ?, verdict_reason = ? WHERE id = ? AND verdict_code <> ?",
                    (*_verdict(error if refused else None), instruction.id, OLDER_ORDER),
                )
                if isinstance(body, bytes):
                    connection.execute(
                        "INSERT OR IGNORE INTO manifests (sha256, body) VALUES (?, ?)",
                        (instruction.manifest.sha256, body),
                    )
            connection.execute(
                "DELETE FROM manifests WHERE sha256 NOT IN (SELECT manifest_sha256 FROM instructions) "
                "AND sha256 NOT IN (SELECT manifest_sha256 FROM runs WHERE finished = 0) "
                "AND sha256 NOT IN (SELECT value FROM json_each(?))",  # what the next version's patches start from
                (json.dumps(sorted(held_manifests(self._it.state))),),
            )
        return before != self._it.state.rows("SELECT id, verdict_code FROM instructions WHERE present = 1")


def _verdict(error: PcmError | None) -> tuple[str, str]:
    return ("", "") if error is None else (error.code, error.message[:1000])


def present_instructions(state: State) -> list[Instruction]:
    """Every instruction of the newest verified file.

    Raises:
        StoreError: `store.damaged`.
    """
    return [record.instruction for record in Journal(state).records() if record.present]


def read_kept_policy(state: State) -> SitePolicy | None:
    """The site's policy, as it was verified last; None if it never was.

    Raises:
        StoreError: `store.damaged`.
    """
    text = state.meta(POLICY)
    if not text:
        return None
    try:
        return read_policy(text.encode())
    except RequestError as error:
        raise StoreError(f"The kept site policy cannot be read: {error.message}", code="store.damaged") from None


def count_approvals(
    instructions: Iterable[Instruction], policy: SitePolicy | None, client_id: str, now: datetime
) -> dict[str, Approved]:
    """How many approvers' signatures hold for each instruction that carries some."""
    carrying = [instruction for instruction in instructions if instruction.approvals]
    if policy is None or not carrying:
        return {}
    from pcm.trust.approvals import check_approvals  # noqa: PLC0415 - only when there are any

    counted: dict[str, Approved] = {}
    for instruction in carrying:
        agreement = check_approvals(instruction, 0, policy, client_id, now)
        counted[instruction.id] = Approved(len(agreement.approvers), agreement.emergency)
    return counted
