"""The whole of the site over HTTP: what an administrator and a client do, one after the other."""

from pathlib import Path

from pcm.protocol.admin import SiteStatus
from pcm.protocol.admin_jobs import JobView
from pcm.testing.small_site import make_package
from tests.integration.site.served import serve_small_site


def test_from_publication_to_result(tmp_path: Path) -> None:
    with serve_small_site(tmp_path) as served:
        contents = {"setup.sh": b"#!/bin/sh\n"}
        served.small.publish(served.site, make_package(contents=contents), contents)
        client = served.enrolled()
        job = served.ask("POST", "/jobs", JobView, {"order": {"package": "tool", "group": "all"}})
        assert job.counts == {"offered": 1}
        served.compile()
        lease = served.as_client(client, "GET", f"clients/{client.client_id}/timestamp.json")
        assert lease.status_code == 200
        again = served.as_client(
            client, "GET", f"clients/{client.client_id}/timestamp.json", if_none_match=lease.headers["etag"]
        )
        assert again.status_code == 304
        status = served.ask("GET", "/site", SiteStatus)
        assert status.clients == {"enrolled": 1}
