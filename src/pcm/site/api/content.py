"""Endpoints about content: the distribution servers and what they still wait for, clean-up, check, statistics."""

from pcm.protocol.admin import Page
from pcm.protocol.admin_content import ClearOrder, Retried, VerifyOrder
from pcm.site import content_task, content_views
from pcm.site.api.calls import Call, Reply


def list_servers(call: Call) -> Reply:
    """`GET /v1/distribution`."""
    with call.site.database.read() as connection:
        return Reply(Page(content_views.servers(connection, call.site)))


def show_server(call: Call) -> Reply:
    """`GET /v1/distribution/{server}`."""
    with call.site.database.read() as connection:
        return Reply(content_views.server(connection, call.site, call.names["server"]))


def retry(call: Call) -> Reply:
    """`POST /v1/distribution/{server}/retry`: do not wait for the next attempt's time."""
    with call.site.database.write() as connection:
        rows = content_views.retry_now(connection, call.site, call.names["server"], call.actor.name)
    for server in call.site.servers:
        server.wake.set()
    return Reply(Retried(rows))


def stats(call: Call) -> Reply:
    """`GET /v1/content`."""
    with call.site.database.read() as connection:
        return Reply(content_views.stats(connection, call.site))


def show_task(call: Call) -> Reply:
    """`GET /v1/content/task`."""
    return Reply(content_task.current(call.site))


def clear(call: Call) -> Reply:
    """`POST /v1/content/gc`."""
    return Reply(content_task.begin(call.site, call.parse(ClearOrder), call.actor.name), 202)


def verify(call: Call) -> Reply:
    """`POST /v1/content/verify`."""
    return Reply(content_task.begin(call.site, call.parse(VerifyOrder), call.actor.name), 202)
