"""Endpoints about groups."""

from pcm.model.errors import RequestError
from pcm.protocol.admin_jobs import GroupOrder
from pcm.site import groups
from pcm.site.api.calls import Call, Reply

MAX_GROUP_BYTES = 16 * 2**20


def list_groups(call: Call) -> Reply:
    """`GET /v1/groups`."""
    with call.site.database.read() as connection:
        return Reply(groups.list_groups(connection, call.slice()))


def show_group(call: Call) -> Reply:
    """`GET /v1/groups/{group}`."""
    with call.site.database.read() as connection:
        return Reply(groups.show(connection, call.names["group"]))


def create_group(call: Call) -> Reply:
    """`POST /v1/groups`."""
    order = call.parse(GroupOrder, max_bytes=MAX_GROUP_BYTES)
    with call.site.database.write() as connection:
        groups.create(connection, order, call.actor.name, call.site.clock())
        return Reply(groups.show(connection, order.name), 201)


def replace_group(call: Call) -> Reply:
    """`PUT /v1/groups/{group}`."""
    order = call.parse(GroupOrder, max_bytes=MAX_GROUP_BYTES)
    name = call.names["group"]
    if order.name != name:
        raise RequestError(f"The path says {name}, the body {order.name}.", code="request.group")
    with call.site.database.write() as connection:
        groups.replace(connection, name, order, call.actor.name, call.site.clock())
        shown = groups.show(connection, name)
    call.site.wake.set()
    return Reply(shown)


def remove_group(call: Call) -> Reply:
    """`DELETE /v1/groups/{group}`."""
    with call.site.database.write() as connection:
        groups.remove(connection, call.names["group"], call.actor.name, call.site.clock())
    return Reply(None)
