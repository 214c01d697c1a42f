"""The client's whole way, steps 6 to 12, over folders: as real processes, with real signatures."""

from pathlib import Path

from tests.integration.service_shell.static_site import Client, StaticSite


def test_a_mandatory_order_runs_once_and_is_reported(site: StaticSite, client: Client, marker: Path) -> None:
    manifest = site.package(marker)
    site.order(client.client_id, [client.mandatory(manifest)])
    checked = client.once()
    assert checked["problem"] is None
    assert marker.read_text() == "installed\n"
    assert client.items()["viewer"]["state"] == "succeeded"
    ledger = client.answer("ledger")
    assert ledger["total"] == 1
    assert ledger["broken_at"] is None if "broken_at" in ledger else True
    client.once()
    assert marker.read_text() == "installed\n"
    reports = list((site.logon_folder / "reports").glob(f"{client.client_id}.*.json"))
    assert len(reports) == 1
