"""Endpoints about the site itself: its status, kit, keys, audit log, API tokens, and what ceremonies have signed."""

from pcm.model.errors import RequestError
from pcm.protocol.admin import ApiTokenRequest, MetadataUpload
from pcm.site import audit, ceremonies, projection, site_views, tokens
from pcm.site.api.calls import Call, Reply


def show_site(call: Call) -> Reply:
    """`GET /v1/site`."""
    with call.site.database.read() as connection:
        return Reply(site_views.status(connection, call.site))


def show_kit(call: Call) -> Reply:
    """`GET /v1/kit`."""
    with call.site.database.read() as connection:
        return Reply(site_views.kit(connection, call.site))


def show_keys(call: Call) -> Reply:
    """`GET /v1/keys`."""
    with call.site.database.read() as connection:
        return Reply(site_views.keys_status(connection))


def list_audit(call: Call) -> Reply:
    """`GET /v1/audit`."""
    with call.site.database.read() as connection:
        return Reply(site_views.list_audit(connection, call.slice()))


def upload_metadata(call: Call) -> Reply:
    """`POST /v1/metadata`: the document is taken, then the keys that it names are taken up, then it is made visible."""
    upload = call.parse(MetadataUpload)
    site = call.site
    with site.database.write() as connection:
        ceremonies.take(connection, upload, site.name, site.online, call.actor.name, site.clock())
    if upload.role == "root":
        site.reload_signers()
        with site.database.write() as connection:
            ceremonies.resign(connection, upload.repository, site.online, site.clock())
        projection.write_roots(site)
    projection.publish_unwritten(site)
    site.wake.set()
    with site.database.read() as connection:
        return Reply(site_views.keys_status(connection))


def list_tokens(call: Call) -> Reply:
    """`GET /v1/api-tokens`."""
    with call.site.database.read() as connection:
        return Reply(tokens.list_tokens(connection, call.slice()))


def create_token(call: Call) -> Reply:
    """`POST /v1/api-tokens`."""
    asked = call.parse(ApiTokenRequest)
    site, now = call.site, call.site.clock()
    with site.database.write() as connection:
        answer = tokens.issue(connection, site.token_key, site.name, asked.name, asked.role, now, asked.expires_in_s)
        audit.record(connection, now, call.actor.name, "api_token.create", answer.id, f"{asked.name}, {asked.role}")
    return Reply(answer, 201)


def revoke_token(call: Call) -> Reply:
    """`DELETE /v1/api-tokens/{token}`. One's own token cannot be revoked: somebody else's must remain."""
    jti, now = call.names["token"], call.site.clock()
    if jti == call.actor.token:
        raise RequestError("A token cannot revoke itself; use another administrator's.", code="not_allowed")
    with call.site.database.write() as connection:
        tokens.revoke(connection, jti, now)
        audit.record(connection, now, call.actor.name, "api_token.revoke", jti)
    return Reply(None)
