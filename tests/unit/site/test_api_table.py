"""The table of endpoints: complete, in step with the responders, and as narrow as it says."""

import pytest

from pcm.model.errors import RequestError
from pcm.site.api.routes import RESPONDERS, UPLOADS
from pcm.site.permissions import ADMIN, ENDPOINTS, ORDER, PUBLISH, READ, check_permission


def test_every_endpoint_has_a_rule_and_a_responder() -> None:
    assert set(ENDPOINTS) == {*RESPONDERS, *UPLOADS}


def test_reading_is_for_all_and_changing_for_some() -> None:
    for (method, path), roles in ENDPOINTS.items():
        if method == "GET":
            assert roles in (READ, ADMIN), path
        elif path != "/v1/objects/missing":
            assert "viewer" not in roles, path


def test_nobody_but_admins_touches_tokens_and_keys() -> None:
    for (method, path), roles in ENDPOINTS.items():
        if "api-tokens" in path or (method, path) == ("POST", "/v1/metadata"):
            assert roles == ADMIN


def test_who_orders_does_not_publish_and_who_publishes_does_not_order() -> None:
    assert "packager" not in ORDER
    assert "operator" not in PUBLISH
    assert "admin" in ORDER & PUBLISH


def test_a_refusal_names_who_may() -> None:
    check_permission("operator", "POST", "/v1/jobs")
    with pytest.raises(RequestError) as raised:
        check_permission("packager", "POST", "/v1/jobs")
    assert raised.value.code == "not_allowed"
    assert "admin or operator" in raised.value.message


def test_an_endpoint_without_a_rule_is_an_error() -> None:
    with pytest.raises(KeyError):
        check_permission("admin", "POST", "/v1/nothing")
