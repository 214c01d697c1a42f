"""What the site makes of a ledger's numbers: every honest growth goes on, every other past does not. Pure."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.ledger_chain import follow, link, seal
from pcm.protocol.report import Report
from pcm.site.client_ledgers import Known, find_break

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LINKS = st.lists(st.binary(max_size=4).map(link), max_size=12)


def report(total: int, head: str | None, links: list[str]) -> Report:
    values: dict[str, Any] = {"ledger_total": total, "ledger_head": head, "ledger_links": tuple(links)}
    return Report(site="hq", client_id="0" * 32, seq=1, boot_id="b", sent=NOW, **values)


def known(links: list[str]) -> Known:
    return Known(len(links), follow(0, None, links))


@given(LINKS, LINKS)
def test_whatever_is_added_goes_on(before: list[str], added: list[str]) -> None:
    whole = before + added
    said = report(len(whole), follow(0, None, whole), added)
    assert find_break(known(before), said) == ""
    assert find_break(known(before), report(len(whole), follow(0, None, whole), whole)) == "", "told from the beginning"


@given(LINKS, LINKS, LINKS)
def test_another_past_never_goes_on(before: list[str], other: list[str], added: list[str]) -> None:
    """However much is added, and however the client tells of it."""
    whole = other + added
    if whole[: len(before)] == before:
        return
    head = follow(0, None, whole)
    for told in range(len(whole) + 1):
        assert find_break(known(before), report(len(whole), head, whole[len(whole) - told :])) != ""


@given(LINKS.filter(bool), st.data())
def test_less_is_always_a_break(links: list[str], data: st.DataObject) -> None:
    fewer = links[: data.draw(st.integers(0, len(links) - 1))]
    assert "it had" in find_break(known(links), report(len(fewer), follow(0, None, fewer), []))


@given(LINKS.filter(bool))
def test_a_head_that_does_not_follow_is_a_break(links: list[str]) -> None:
    assert find_break(Known(0, None), report(len(links), "0" * 64, links)) != ""
    assert find_break(known(links), report(len(links), "0" * 64, [])) != ""
    assert find_break(known(links), report(len(links), None, [])) != ""


@pytest.mark.parametrize(("resumed", "breaks"), [(False, True), (True, False)])
def test_what_was_never_told_is_believed_only_after_resuming(resumed: bool, breaks: bool) -> None:
    links = [link(b"%d" % number) for number in range(5)]
    said = report(5, follow(0, None, links), links[4:])
    assert bool(find_break(known(links[:2]), said, resumed=resumed)) == breaks
    assert find_break(known(links), report(3, follow(0, None, links[:3]), []), resumed=resumed), "less stays less"


def test_the_chain_is_what_the_formats_say() -> None:
    first = seal(1, None, link(b"{}"))
    assert first == follow(0, None, [link(b"{}")])
    assert seal(2, first, link(b"{}")) == follow(1, first, [link(b"{}")]) == follow(0, None, [link(b"{}")] * 2)
    assert (
        len({seal(1, None, link(b"")), seal(2, None, link(b"")), seal(1, first, link(b"")), seal(1, None, link(b"x"))})
        == 4
    )
