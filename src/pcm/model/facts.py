"""Facts: what a client knows about its own computer. Reported in step 12, used by the planner (7) and the cross-check (6)."""

from typing import Annotated

import msgspec

_Text = Annotated[str, msgspec.Meta(max_length=256)]


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The computer in a few words. `platform` as packages name it: `linux-x86_64`."""

    host_name: _Text
    platform: _Text
    os_name: _Text = ""
    os_version: _Text = ""
    agent_version: _Text = ""
