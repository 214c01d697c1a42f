"""Endpoints about clients, and the one-time tokens by which computers become clients."""

from typing import get_args

from pcm.model.errors import RequestError
from pcm.protocol.admin import ClientState, EnrolmentTokenRequest
from pcm.site import client_ledgers, client_views, clients, enrolment
from pcm.site.api.calls import Call, Reply


def create_enrolment_token(call: Call) -> Reply:
    """`POST /v1/enrolment-tokens`."""
    asked = call.parse(EnrolmentTokenRequest)
    with call.site.database.write() as connection:
        return Reply(enrolment.create_token(connection, asked, call.actor.name, call.site.clock()), 201)


def list_clients(call: Call) -> Reply:
    """`GET /v1/clients?state=&gap=true&ledger_broken=true`."""
    state = call.query.get("state")
    if state is not None and state not in get_args(ClientState):
        raise RequestError(f"state is one of {', '.join(get_args(ClientState))}.", code="request.query")
    with call.site.database.read() as connection:
        gap, ledger_broken = (call.query.get(name) == "true" for name in ("gap", "ledger_broken"))
        return Reply(clients.list_clients(connection, call.slice(), state, gap=gap, ledger_broken=ledger_broken))


def show_client(call: Call) -> Reply:
    """`GET /v1/clients/{client}`."""
    with call.site.database.read() as connection:
        return Reply(client_views.show(connection, clients.find(connection, call.names["client"])))


def why(call: Call) -> Reply:
    """`GET /v1/clients/{client}/why?job=`."""
    with call.site.database.read() as connection:
        client = clients.find(connection, call.names["client"])
        return Reply(client_views.why(connection, client, call.query.get("job"), call.site.clock()))


def approve(call: Call) -> Reply:
    """`POST /v1/clients/{client}/approve`."""
    site = call.site
    with site.database.write() as connection:
        client = clients.find(connection, call.names["client"])
        clients.approve(connection, client, call.actor.name, site.clock())
    for place in site.logon:
        place.folder.write_key(client.client_id, client.public_key.encode())
    site.wake.set()
    return _shown(call, client.client_id)


def revoke(call: Call) -> Reply:
    """`POST /v1/clients/{client}/revoke`: from now on it can neither read nor report."""
    site = call.site
    with site.database.write() as connection:
        client = clients.find(connection, call.names["client"])
        clients.revoke(connection, client, call.actor.name, site.clock())
    for place in site.logon:
        place.folder.remove_client(client.client_id)
    site.wake.set()
    return _shown(call, client.client_id)


def resume(call: Call) -> Reply:
    """`POST /v1/clients/{client}/resume`: its reports go on after a gap."""
    with call.site.database.write() as connection:
        client = clients.find(connection, call.names["client"])
        clients.resume(connection, client, call.actor.name, call.site.clock())
    return _shown(call, client.client_id)


def accept_ledger(call: Call) -> Reply:
    """`POST /v1/clients/{client}/accept-ledger`: its ledger is taken as it is from now on."""
    with call.site.database.write() as connection:
        client = clients.find(connection, call.names["client"])
        client_ledgers.accept(connection, client, call.actor.name, call.site.clock())
    return _shown(call, client.client_id)


def _shown(call: Call, client_id: str) -> Reply:
    with call.site.database.read() as connection:
        return Reply(client_views.show(connection, clients.find(connection, client_id)))
