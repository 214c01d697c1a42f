"""Admin API tokens: signed by the site (JWT, RFC 7519, with Ed25519 signatures, RFC 9864), and revocable.

Serves every call of the API, before `permissions`. A token names its site as issuer and audience, its role, its
expiry and an id; it counts only while the row with that id stands in `api_tokens`, unrevoked. The table alone makes
no token, the key alone neither. The site never keeps a token itself.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from sqlalchemy import Connection, insert, select, update

from pcm.model.errors import RequestError
from pcm.protocol.admin import ApiTokenAnswer, ApiTokenView, Page, Role
from pcm.site.db.tables import AnyRow, api_tokens
from pcm.site.pages import Slice, moment_cursor, page

AUDIENCE = "pcm-admin-api"
_ALGORITHM = "Ed25519"
_MAX_TOKEN = 2000


@dataclass(frozen=True)
class Actor:
    """Who asks: the name that stands in the audit log, and the role that `permissions` looks at."""

    name: str
    role: Role
    token: str


def read_key(pem: bytes) -> OKPKey:
    """The signing key from its PEM file (PKCS#8, ed25519)."""
    return OKPKey.import_key(pem)


def issue(
    connection: Connection, key: OKPKey, site: str, name: str, role: Role, now: datetime, lifetime_s: int
) -> ApiTokenAnswer:
    """Make a token and its row."""
    if role not in get_args(Role):
        raise RequestError(f"There is no role {role!r}: use one of {', '.join(get_args(Role))}.")
    jti = secrets.token_hex(16)
    expires = (now + timedelta(seconds=lifetime_s)).replace(microsecond=0)
    claims: dict[str, Any] = {
        "iss": site,
        "aud": AUDIENCE,
        "sub": name,
        "scope": role,
        "iat": int(now.timestamp()),
        "exp": int(expires.timestamp()),
        "jti": jti,
    }
    connection.execute(insert(api_tokens).values(jti=jti, name=name, role=role, created=now, expires=expires))
    token = jwt.encode({"alg": _ALGORITHM, "typ": "JWT"}, claims, key, algorithms=[_ALGORITHM])
    return ApiTokenAnswer(jti, token, expires)


def verify(connection: Connection, key: OKPKey, site: str, token: str, now: datetime) -> Actor:
    """Find out whose token this is.

    Raises:
        RequestError: `unauthenticated`. The reason is not told apart: it would only help who guesses.
    """
    refusal = RequestError("This token is not valid here, has expired, or was revoked.", code="unauthenticated")
    if len(token) > _MAX_TOKEN:
        raise refusal
    rules = jwt.JWTClaimsRegistry(
        now=lambda: int(now.timestamp()),
        iss={"essential": True, "value": site},
        aud={"essential": True, "value": AUDIENCE},
        exp={"essential": True},
        jti={"essential": True},
    )
    try:
        claims = jwt.decode(token, key, algorithms=[_ALGORITHM]).claims
        rules.validate(claims)
    except (JoseError, ValueError):
        raise refusal from None
    row = connection.execute(select(api_tokens).where(api_tokens.c.jti == str(claims["jti"]))).first()
    if row is None or row.revoked is not None or row.expires <= now or row.role != claims.get("scope"):
        raise refusal
    return Actor(row.name, row.role, row.jti)


def revoke(connection: Connection, jti: str, now: datetime) -> None:
    """Let a token count no longer. Raises RequestError `not_found`."""
    changed = connection.execute(
        update(api_tokens).where(api_tokens.c.jti == jti, api_tokens.c.revoked.is_(None)).values(revoked=now)
    )
    if changed.rowcount == 0:
        raise RequestError(f"There is no token {jti[:40]!r} that could be revoked.", code="not_found")


def list_tokens(connection: Connection, part: Slice) -> Page[ApiTokenView]:
    """Tokens, newest first, without the tokens themselves."""
    query = select(api_tokens).order_by(api_tokens.c.created.desc(), api_tokens.c.jti.desc()).limit(part.limit + 1)
    after = part.moment_and_id()
    if after is not None:
        created, jti = after
        older = (api_tokens.c.created == created) & (api_tokens.c.jti < jti)
        query = query.where((api_tokens.c.created < created) | older)
    return page(connection.execute(query).all(), part, _view, lambda row: moment_cursor(row.created, row.jti))


def _view(row: AnyRow) -> ApiTokenView:
    return ApiTokenView(row.jti, row.name, row.role, row.created, row.expires, row.revoked)
