"""How a package's content came here, or would come: the ways, the sources, the reasons and what they spare, for `pcmsvc why`.

Serves step 9, beside `views`. Made from what `content_records` remembers and what the store holds now; it asks no network, so of
what has not come it can tell what is tried first, and not yet what that gives. It changes nothing.
"""

import random
from datetime import datetime

from pcm.content.assembly import missing_files
from pcm.content.client_store import ClientStore
from pcm.content.ways import is_little
from pcm.model.content_policy import rate_at
from pcm.model.package import PackageFile
from pcm.protocol import local
from pcm.protocol.manifest import Manifest
from pcm.service.content_records import ContentRecord, find_record, read_held, read_policy
from pcm.service.history import History
from pcm.service.inbox import read_header
from pcm.service.planner_case import SETTLED
from pcm.service.records import InstructionRecord
from pcm.service.sources import DISTRIBUTION, Servers
from pcm.service.state import State

_WAYS = {
    "patch": "as patches",
    "small": "with other small files",
    "whole": "whole",
    "peer": "from computers of this subnet",
    "have": "from nowhere, being empty",
}


def explain_content(
    state: State, record: InstructionRecord, manifest: Manifest | None, now: datetime
) -> tuple[list[local.WhyLine], local.Content | None]:
    """The lines about one instruction's content, and the same as data."""
    if manifest is None or not manifest.files:
        return [], None
    came = find_record(state, record.manifest_sha256)
    lines = _tell_came(came) if came is not None else []
    missing = [] if record.state in SETTLED else missing_files(manifest.files, ClientStore(state.folder / "store"))
    lines += _tell_coming(state, record, manifest, missing, now) if missing else []
    if came is None and not missing:
        return lines, None
    return lines, local.Content(
        came=None if came is None else came.at,
        travelled=0 if came is None else came.travelled,
        whole=0 if came is None else came.whole,
        saved=0 if came is None else came.saved,
        missing_files=len(missing),
        missing_bytes=sum(file.length for file in missing),
        ways=()
        if came is None
        else tuple(
            local.ContentWay(each.way, each.source, each.files, each.plain, each.bytes, _reasons(came, each.way))
            for each in came.ways
        ),
    )


def _tell_came(came: ContentRecord) -> list[local.WhyLine]:
    spared = f", {size(came.saved)} less than whole files would" if came.saved else ""
    lines = [
        local.WhyLine(
            "source",
            f"{came.files} files ({size(came.bytes)}) were brought at {came.at:%Y-%m-%d %H:%M} UTC; {size(came.travelled)} "
            f"travelled{spared}.",
        )
    ]
    for each in came.ways:
        why = _reasons(came, each.way)
        origin = f" from {each.source}" if each.source else ""
        lines.append(
            local.WhyLine(
                "source",
                f"{each.files} files came {_WAYS.get(each.way, each.way)}{origin}: {size(each.bytes)} for {size(each.plain)}"
                + (f"; {why}." if why else "."),
            )
        )
    return lines


def _tell_coming(
    state: State, record: InstructionRecord, manifest: Manifest, missing: list[PackageFile], now: datetime
) -> list[local.WhyLine]:
    held = [each for each in read_held(state).get(manifest.package, ()) if each != record.manifest_sha256]
    versions = History(state).manifests(held)
    names = [versions[each].version for each in held if each in versions]
    if is_little(missing):
        how = "they are asked for whole, because there are so few"
    elif names:
        how = f"patches from {' and '.join(names)} are looked for first, because that is held here; what has none comes whole"
    else:
        how = "no other version is held here, so they come whole, small ones together"
    header = read_header(state)
    servers = Servers(state, DISTRIBUTION, header.servers.distribution if header else (), ())
    order = [choice for choice in servers.choices(now, random.SystemRandom()) if choice.usable][:1]
    origin = f", from {order[0].server} ({order[0].reason})" if order else ""
    room = size(sum(each.length for each in missing))
    text = f"{len(missing)} of {len(manifest.files)} files ({room}) are still to come: {how}{origin}."
    limit = rate_at(read_policy(state), now.astimezone(), metered=False)
    if limit:
        text += f" The site allows {size(limit)} a second now."
    return [local.WhyLine("source", text)]


def _reasons(came: ContentRecord, way: str) -> str:
    return "; ".join(each.text for each in came.reasons if each.way == way)


def size(count: int) -> str:
    """Bytes for people."""
    number, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return (
        f"{count} bytes"
        if units[0] == "bytes"
        else f"{number:.3g} {units[0]}"
        if number < 1000
        else f"{number:.0f} {units[0]}"
    )
