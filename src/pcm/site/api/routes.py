"""Which responder answers which endpoint, and the API as one ASGI application.

Serves steps 2, 3 and 12. Every endpoint of `permissions.ENDPOINTS` has exactly one responder here; one without the
other keeps the site from starting, so nothing is ever reachable without a rule.
"""

from collections.abc import Callable
from types import MappingProxyType

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pcm.protocol.admin import MAX_PUBLICATION_BYTES
from pcm.protocol.admin_packages import ObjectsStored, ObjectStored
from pcm.site.api import about, clients, content, groups, jobs, objects, packages
from pcm.site.api.calls import Endpoint, Responder, problem
from pcm.site.authority import Site
from pcm.site.permissions import ENDPOINTS

RESPONDERS: MappingProxyType[tuple[str, str], Responder] = MappingProxyType(
    {
        ("GET", "/v1/site"): about.show_site,
        ("GET", "/v1/kit"): about.show_kit,
        ("GET", "/v1/keys"): about.show_keys,
        ("GET", "/v1/audit"): about.list_audit,
        ("POST", "/v1/metadata"): about.upload_metadata,
        ("GET", "/v1/api-tokens"): about.list_tokens,
        ("POST", "/v1/api-tokens"): about.create_token,
        ("DELETE", "/v1/api-tokens/{token}"): about.revoke_token,
        ("POST", "/v1/enrolment-tokens"): clients.create_enrolment_token,
        ("GET", "/v1/clients"): clients.list_clients,
        ("GET", "/v1/clients/{client}"): clients.show_client,
        ("GET", "/v1/clients/{client}/why"): clients.why,
        ("POST", "/v1/clients/{client}/approve"): clients.approve,
        ("POST", "/v1/clients/{client}/revoke"): clients.revoke,
        ("POST", "/v1/clients/{client}/resume"): clients.resume,
        ("POST", "/v1/clients/{client}/accept-ledger"): clients.accept_ledger,
        ("GET", "/v1/packages"): packages.list_packages,
        ("GET", "/v1/packages/{package}"): packages.show_package,
        ("GET", "/v1/packages/{package}/{version}"): packages.show_version,
        ("POST", "/v1/objects/missing"): objects.missing,
        ("GET", "/v1/objects/{sha256}/upload"): objects.upload_state,
        ("GET", "/v1/teams/{team}"): packages.show_team,
        ("POST", "/v1/publications"): packages.publish,
        ("GET", "/v1/distribution"): content.list_servers,
        ("GET", "/v1/distribution/{server}"): content.show_server,
        ("POST", "/v1/distribution/{server}/retry"): content.retry,
        ("GET", "/v1/content"): content.stats,
        ("GET", "/v1/content/task"): content.show_task,
        ("POST", "/v1/content/gc"): content.clear,
        ("POST", "/v1/content/verify"): content.verify,
        ("GET", "/v1/groups"): groups.list_groups,
        ("POST", "/v1/groups"): groups.create_group,
        ("GET", "/v1/groups/{group}"): groups.show_group,
        ("PUT", "/v1/groups/{group}"): groups.replace_group,
        ("DELETE", "/v1/groups/{group}"): groups.remove_group,
        ("GET", "/v1/jobs"): jobs.list_jobs,
        ("POST", "/v1/jobs"): jobs.create_job,
        ("GET", "/v1/jobs/{job}"): jobs.show_job,
        ("POST", "/v1/jobs/{job}/cancel"): jobs.cancel_job,
        ("GET", "/v1/jobs/{job}/approval"): jobs.ask_approval,
        ("POST", "/v1/jobs/{job}/approvals"): jobs.add_approval,
    }
)
UPLOADS: MappingProxyType[tuple[str, str], Callable[..., ObjectStored | ObjectsStored]] = MappingProxyType(
    {("PUT", "/v1/objects/{sha256}"): objects.store_one, ("POST", "/v1/objects"): objects.store_many}
)
_LONGER = {
    ("POST", "/v1/publications"): MAX_PUBLICATION_BYTES,
    ("POST", "/v1/groups"): groups.MAX_GROUP_BYTES,
    ("PUT", "/v1/groups/{group}"): groups.MAX_GROUP_BYTES,
}


def create_api(site: Site) -> ASGIApp:
    """The API of one site, as an ASGI application that expects whole paths (`/v1/...`)."""
    if set(ENDPOINTS) != {*RESPONDERS, *UPLOADS}:
        raise AssertionError(f"endpoints without rule or responder: {set(ENDPOINTS) ^ {*RESPONDERS, *UPLOADS}}")
    routes = [_route(site, method, path) for method, path in ENDPOINTS]
    return Router(routes, redirect_slashes=False, default=_nothing)


def _route(site: Site, method: str, path: str) -> Route:
    app: ASGIApp
    if (method, path) in UPLOADS:
        app = objects.Upload(site, method, path, UPLOADS[method, path])
    elif (method, path) in _LONGER:
        app = Endpoint(site, method, path, RESPONDERS[method, path], max_bytes=_LONGER[method, path])
    else:
        app = Endpoint(site, method, path, RESPONDERS[method, path])
    route = Route(path, app, methods=[method])
    route.methods = {method}  # no HEAD beside GET: nothing answers that is not in the table
    return route


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await problem(404, "not_found", "There is nothing here.")(scope, receive, send)
