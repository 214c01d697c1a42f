"""Endpoints about packages: the catalogue, teams, and publications (publishing and withdrawing are the same call)."""

import msgspec

from pcm.protocol.admin import MAX_PUBLICATION_BYTES
from pcm.protocol.admin_packages import Publication
from pcm.site import catalogue, ceremonies, content_views, deliverer, delivery, packages, projection
from pcm.site.api.calls import Call, Reply

_WAIT_S = 3.0


def list_packages(call: Call) -> Reply:
    """`GET /v1/packages`."""
    with call.site.database.read() as connection:
        return Reply(catalogue.list_packages(connection, call.slice()))


def show_package(call: Call) -> Reply:
    """`GET /v1/packages/{package}`."""
    with call.site.database.read() as connection:
        return Reply(catalogue.show_package(connection, call.names["package"]))


def show_version(call: Call) -> Reply:
    """`GET /v1/packages/{package}/{version}`."""
    with call.site.database.read() as connection:
        detail = catalogue.show_version(connection, call.names["package"], call.names["version"])
        where = content_views.of_version(connection, detail.version.manifest.sha256)
        return Reply(msgspec.structs.replace(detail, deliveries=where))


def show_team(call: Call) -> Reply:
    """`GET /v1/teams/{team}`."""
    with call.site.database.read() as connection:
        return Reply(ceremonies.show_team(connection, call.names["team"]))


def publish(call: Call) -> Reply:
    """`POST /v1/publications`: answered once it stands in the site's home; other servers get it by their rows (`delivery`)."""
    offered = call.parse(Publication, max_bytes=MAX_PUBLICATION_BYTES)
    site = call.site
    # nobody removes an object between the look for it and the row that names it
    with site.content_turn, site.database.write() as connection:
        answer = packages.publish(connection, offered, (site.home,), site.online, call.actor.name, site.clock())
    projection.publish_unwritten(site)
    delivery.plan(site)
    site.wake.set()
    deliverer.wait_for_all(site, _WAIT_S)
    return Reply(answer, 201)
