"""One value of each document that crosses a machine boundary; its bytes are checked in beside this file.

`python -m tests.golden.documents` writes them. A change of these bytes is a change of the wire format: it needs a reason in the
changelog, and older clients and sites must still understand it.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pcm.model.assignment import State
from pcm.model.detection import (
    AllOf,
    AnyOf,
    CommandDetection,
    DpkgDetection,
    FileDetection,
    MsiDetection,
    Not,
    RegistryDetection,
    RpmDetection,
)
from pcm.model.facts import Facts
from pcm.model.instruction import Approval, Deferral, Instruction, ManifestReference, Notify
from pcm.model.package import PackageFile, PackageReference
from pcm.model.program import ExitCodes, Parameter, Program
from pcm.model.schedule import Window
from pcm.protocol import approval, codec, enrolment, instructions, local, manifest, policy, report

FOLDER = Path(__file__).parent
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
HASH = "ab" * 32
CLIENT = "0123456789abcdef0123456789abcdef"
JOB = "j0123456789"


class Golden(NamedTuple):
    """A file name, its value, and how it is written and read."""

    name: str
    value: Any
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


MANIFEST = manifest.Manifest(
    package="seven-zip",
    version="24.08",
    release=12,
    min_release=3,
    platforms=("windows-x86_64", "linux-any"),
    summary="File archiver",
    publisher="Igor Pavlov",
    icon="icon.png",
    files=(
        PackageFile("7z.msi", 1_900_000, HASH),
        PackageFile("bin/setup", 12, HASH, executable=True),
        PackageFile("icon.png", 0, HASH),
    ),
    requires=(PackageReference("vc-runtime", 4),),
    conflicts=(PackageReference("old-zip"),),
    parameters={
        "INSTALLDIR": Parameter(pattern=r"C:\\[\w \\]+", max_length=120),
        "MODE": Parameter(enum=("a", "b"), default="a", secret=True),
    },
    programs={
        "install": Program(
            argv=("msiexec.exe", "/i", "7z.msi", "/qn", "INSTALLDIR={INSTALLDIR}"),
            presence="logged_off",
            timeout_s=1200,
            exit_codes=ExitCodes(success=(0,), restart=(3010,), retry=(1618, -1)),
            working_directory="bin",
            environment={"LANG": "C.UTF-8"},
            detect=AllOf(
                [
                    MsiDetection(upgrade_code="{23170F69-40C1-2702-0000-000004000000}", version=">= 24.08"),
                    AnyOf([DpkgDetection("p7zip", ">= 24"), RpmDetection("p7zip"), FileDetection("/usr/bin/7z", HASH)]),
                    Not(RegistryDetection(r"HKLM\Software\Old", "Version", "1", "32")),
                ]
            ),
            health=CommandDetection(["7z", "i"], "exit_zero"),
            rollback_to="restore",
            blocking_processes=("7zFM.exe",),
            user_requestable=True,
            estimated_s=60,
            disk_bytes=5_000_000,
        ),
        "uninstall": Program(
            argv=("msiexec.exe", "/x", "7z.msi", "/qn"), run_as="user", interaction="allowed", approvals=2
        ),
        "restore": Program(argv=("msiexec.exe", "/i", "before.msi", "/qn")),
    },
    signed_at=NOW,
)
INSTRUCTIONS = instructions.Instructions(
    site="hq",
    client_id=CLIENT,
    serial=1_769_860_800_000,
    issued=NOW,
    expires=LATER,
    min_client_version="0.1.0",
    package_repository_min=instructions.RepositoryFloor(root=2, timestamp=30, snapshot=12),
    poll_after_s=900,
    windows=(
        Window(days=("sat", "sun"), start="22:00", minutes=240),
        Window(days=("wed",), start="01:30", minutes=60, clock="utc"),
        Window(rule="FREQ=MONTHLY;BYDAY=2TU", start="20:00", minutes=180),
    ),
    servers=instructions.Servers(
        ("https://logon.example/logon",), ("https://dist.example/distribution", "/srv/mirror")
    ),
    acknowledged_seq=41,
    instructions=(
        Instruction(
            id=f"{JOB}.0123456789ab",
            generation=2,
            job=JOB,
            package="seven-zip",
            version="24.08",
            release=12,
            program="install",
            manifest=ManifestReference("packages/desktop/seven-zip/24.08/manifest.json", 1234, HASH),
            purpose="mandatory",
            offer_after=NOW,
            mandatory_after=LATER,
            expires_after=LATER,
            clock="client",
            parameters={"INSTALLDIR": "C:\\Tools"},
            after=("j9876543210",),
            priority=80,
            window_policy="ignore",
            deferral=Deferral(3, 86_400),
            notify=Notify(show=True, countdown_s=300),
            restart_policy="force",
            approvals=(Approval("ZW52ZWxvcGU=", ("L" + HASH,)),),
        ),
        Instruction(
            id="j1111111111.0123456789ab",
            generation=1,
            job="j1111111111",
            package="tree",
            version="2.1.0",
            release=1,
            program="install",
            manifest=ManifestReference("packages/desktop/tree/2.1.0/manifest.json", 900, HASH),
            purpose="optional",
            offer_after=NOW,
            allowed_users=("ada",),
        ),
    ),
)
REPORT = report.Report(
    site="hq",
    client_id=CLIENT,
    seq=42,
    prev_sha256=HASH,
    boot_id="6f6b",
    sent=NOW,
    serial=1_769_860_800_000,
    ledger_head=HASH,
    ledger_total=7,
    ledger_links=(HASH,),
    facts=Facts("pc-17", "linux-x86_64", "Debian GNU/Linux", "12", "0.1.0"),
    outcomes=(
        report.Outcome(
            instruction=f"{JOB}.0123456789ab",
            job=JOB,
            generation=2,
            state=State.SUCCEEDED,
            at=NOW,
            code="run.success",
            reason="It is there.",
            result=report.RunResult(
                "0a" * 16, NOW, LATER, 0, "success", detected=True, output_tail="done\n", output_bytes=5
            ),
        ),
    ),
    refusals=(report.Refusal("trust.rollback", NOW, "Version 3 came after 4.", "https://logon.example", 2),),
)
ITEM = local.Item(
    id=f"{JOB}.0123456789ab", job=JOB, package="seven-zip", version="24.08", program="install", purpose="mandatory",
    state="waiting", reason="The maintenance window opens at 22:00.", code="plan.window", deadline=LATER, can_defer=True,
)  # fmt: skip

GOLDEN = (
    Golden("manifest.json", MANIFEST, manifest.write_manifest, manifest.read_manifest),
    Golden("instructions.json", INSTRUCTIONS, instructions.write_instructions, instructions.read_instructions),
    Golden("report.json", REPORT, report.write_report, report.read_report),
    Golden(
        "policy.json",
        policy.SitePolicy(
            site="hq", spread_s=14_400, pilot_share=0.05, min_age_s=3600,
            approvers=(policy.Approver("ada", HASH),), emergency_approvals=2,
        ),
        policy.write_policy,
        policy.read_policy,
    ),
    Golden(
        "approval.json",
        approval.ApprovalOrder(
            site="hq", job=JOB, generation=2, package="seven-zip", release=12, program="uninstall", manifest_sha256=HASH,
            parameters={"MODE": "b"}, audience=HASH, audience_size=3, expires=LATER, emergency=True,
        ),
        approval.write_approval,
        approval.read_approval,
    ),
    Golden(
        "kit.json",
        enrolment.ClientConfiguration(
            site="hq", logon=("https://logon.example/logon",), distribution=("https://dist.example/distribution",),
            instructions_root="{}", packages_root="{}", transfer_account="_pcm", proxy="http://proxy:3128", ca_file="/etc/pcm/ca.pem",
        ),
        codec.encode,
        enrolment.read_configuration,
    ),
    Golden(
        "enrolment.json",
        enrolment.EnrolmentRequest(site="hq", public_key="PEM", facts=Facts("pc-17", "linux-x86_64"), token="one-time"),
        codec.encode,
        enrolment.read_enrolment,
    ),
    Golden("local-defer.json", local.LocalRequest("defer", ITEM.id, LATER), local.write_request, local.read_request),
    Golden("local-items.json", local.Items((ITEM,)), local.write_answer, local.read_answer),
    Golden(
        "local-why.json",
        local.Why(ITEM.id, "waiting", (local.WhyLine("window", "It opens at 22:00.", holds=False, code="plan.window", until=LATER),)),
        local.write_answer,
        local.read_answer,
    ),
)  # fmt: skip


def main() -> int:
    """Write all golden files."""
    for golden in GOLDEN:
        (FOLDER / golden.name).write_bytes(golden.write(golden.value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
