"""Which role may call which endpoint of the admin API: one table, nothing else decides.

Serves every call, after `tokens` and before any responder runs. An endpoint that is not in the table cannot be called
at all: the router takes its routes from here too. `viewer` reads; `operator` also orders jobs and looks after
clients and groups; `packager` also publishes, but orders nothing; `admin` may do everything.
"""

from types import MappingProxyType

from pcm.model.errors import RequestError
from pcm.protocol.admin import Role

READ: frozenset[Role] = frozenset({"viewer", "operator", "packager", "admin"})
ORDER: frozenset[Role] = frozenset({"operator", "admin"})
PUBLISH: frozenset[Role] = frozenset({"packager", "admin"})
ADMIN: frozenset[Role] = frozenset({"admin"})

ENDPOINTS: MappingProxyType[tuple[str, str], frozenset[Role]] = MappingProxyType(
    {
        ("GET", "/v1/site"): READ,
        ("GET", "/v1/kit"): READ,
        ("GET", "/v1/keys"): READ,
        ("GET", "/v1/audit"): READ,
        ("POST", "/v1/metadata"): ADMIN,
        ("GET", "/v1/api-tokens"): ADMIN,
        ("POST", "/v1/api-tokens"): ADMIN,
        ("DELETE", "/v1/api-tokens/{token}"): ADMIN,
        ("POST", "/v1/enrolment-tokens"): ORDER,
        ("GET", "/v1/clients"): READ,
        ("GET", "/v1/clients/{client}"): READ,
        ("GET", "/v1/clients/{client}/why"): READ,
        ("POST", "/v1/clients/{client}/approve"): ORDER,
        ("POST", "/v1/clients/{client}/revoke"): ORDER,
        ("POST", "/v1/clients/{client}/resume"): ORDER,
        ("POST", "/v1/clients/{client}/accept-ledger"): ADMIN,
        ("GET", "/v1/packages"): READ,
        ("GET", "/v1/packages/{package}"): READ,
        ("GET", "/v1/packages/{package}/{version}"): READ,
        ("POST", "/v1/objects/missing"): PUBLISH,
        ("POST", "/v1/objects"): PUBLISH,
        ("PUT", "/v1/objects/{sha256}"): PUBLISH,
        ("GET", "/v1/objects/{sha256}/upload"): READ,
        ("GET", "/v1/teams/{team}"): READ,
        ("POST", "/v1/publications"): PUBLISH,
        ("GET", "/v1/distribution"): READ,
        ("GET", "/v1/distribution/{server}"): READ,
        ("POST", "/v1/distribution/{server}/retry"): PUBLISH,
        ("GET", "/v1/content"): READ,
        ("GET", "/v1/content/task"): READ,
        ("POST", "/v1/content/gc"): ADMIN,
        ("POST", "/v1/content/verify"): ADMIN,
        ("GET", "/v1/groups"): READ,
        ("POST", "/v1/groups"): ORDER,
        ("GET", "/v1/groups/{group}"): READ,
        ("PUT", "/v1/groups/{group}"): ORDER,
        ("DELETE", "/v1/groups/{group}"): ORDER,
        ("GET", "/v1/jobs"): READ,
        ("POST", "/v1/jobs"): ORDER,
        ("GET", "/v1/jobs/{job}"): READ,
        ("POST", "/v1/jobs/{job}/cancel"): ORDER,
        ("GET", "/v1/jobs/{job}/approval"): READ,
        ("POST", "/v1/jobs/{job}/approvals"): ORDER,
    }
)


def check_permission(role: Role, method: str, path: str) -> None:
    """Return if this role may call this endpoint.

    Args:
        path: The route's pattern, as in `ENDPOINTS`.

    Raises:
        RequestError: `not_allowed`, naming who may.
    """
    allowed = ENDPOINTS[method, path]
    if role not in allowed:
        raise RequestError(
            f"Your token has the role {role}; this needs {' or '.join(sorted(allowed))}.", code="not_allowed"
        )
