"""Instruction files laid out the fast way are exactly what the document's own writer would write."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.job import JobOrder
from pcm.protocol.instructions import RepositoryFloor, Servers, read_instructions, write_instructions
from pcm.site.instruction_files import FileFrame, JobFacts, JobList, JobTemplate, content, finish

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
CLIENT = "0123456789abcdef" * 2
FRAME = FileFrame("site", Servers(("http://a/logon",), ("http://a/d", "file:///d")), 60, "0", ())
FLOOR = RepositoryFloor(1, 5, 4)


def facts(order: JobOrder | None = None, job: str = "j0123456789", **changes: object) -> JobFacts:
    made = JobFacts(
        job,
        1,
        order or JobOrder(package="tool", group="all"),
        NOW,
        "tool",
        "1.0",
        3,
        ManifestReference("packages/base/tool/1.0/manifest.json", 100, "a" * 64),
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def render(made: JobFacts, standing: dict[str, str] | None = None, client: str = CLIENT) -> Instruction:
    return msgspec.json.decode(JobTemplate(made).render(client, standing or {}), type=Instruction)


def file_of(*made: JobFacts, serial: int = 1) -> bytes:
    file, _ = content(FRAME, CLIENT, JobList([JobTemplate(each) for each in made]).render(CLIENT, {}), 0)
    return finish(file, serial, NOW, NOW + timedelta(days=30), FLOOR, 7)


def test_the_bytes_are_those_of_the_documents_own_writer() -> None:
    body = file_of(facts(), facts(job="j9999999999"), serial=4)
    assert body == write_instructions(read_instructions(body))


orders = st.builds(
    JobOrder,
    package=st.just("tool"),
    group=st.just("all"),
    program=st.sampled_from(["install", "repair"]),
    priority=st.integers(0, 100),
    parameters=st.dictionaries(st.sampled_from(["id", "A", "B"]), st.text(max_size=30), max_size=3),
    allowed_users=st.none(),
    note=st.text(max_size=20),
    restart_policy=st.sampled_from(["never", "ask", "force"]),
)


@given(orders, st.from_regex(r"[0-9a-f]{32}", fullmatch=True))
def test_any_order_gives_each_client_its_own_instruction(order: JobOrder, client: str) -> None:
    made = facts(order)
    instruction = render(made, client=client)
    assert instruction.id == f"{made.id}.{client[:12]}"
    assert instruction.parameters == order.parameters
    assert (instruction.priority, instruction.restart_policy) == (order.priority, order.restart_policy)


@given(st.lists(orders, max_size=4), st.booleans(), st.from_regex(r"[0-9a-f]{32}", fullmatch=True))
def test_a_list_laid_out_once_is_what_each_template_says(made: list[JobOrder], waits: bool, client: str) -> None:
    templates = [JobTemplate(facts(order, job=f"j{number:010d}")) for number, order in enumerate(made)]
    if waits:
        templates.append(JobTemplate(facts(JobOrder(package="tool", group="all", after=("j0000000000",)), job="j9")))
    standing = {"j0000000000": "offered"}
    expected = msgspec.json.encode([each.render(client, standing) for each in templates])
    assert JobList(templates).render(client, standing) == expected


def test_without_instructions_the_bytes_are_the_documents_own_too() -> None:
    body = file_of()
    assert b'instructions":[' not in body
    assert body == write_instructions(read_instructions(body))


def test_a_parameter_cannot_pass_for_the_id() -> None:
    made = facts(JobOrder(package="tool", group="all", parameters={"id": "j0123456789.000000000000"}))
    instruction = render(made)
    assert instruction.id == "j0123456789." + CLIENT[:12]
    assert instruction.parameters == {"id": "j0123456789.000000000000"}


def test_equal_content_has_an_equal_hash_whatever_its_serial() -> None:
    raws = JobList([JobTemplate(facts())]).render(CLIENT, {})
    _, first = content(FRAME, CLIENT, raws, 0)
    _, again = content(FRAME, CLIENT, raws, 0)
    _, other = content(FRAME._replace(poll_after_s=61), CLIENT, raws, 0)
    _, dropped = content(FRAME, CLIENT, raws, 5)
    assert first == again
    assert len({first, other, dropped}) == 3


@pytest.mark.parametrize(
    ("standing", "after"),
    [
        ({}, ()),
        ({"j1111111111": "offered"}, ("j1111111111",)),
        ({"j1111111111": "failed"}, ("j1111111111",)),
        ({"j1111111111": "cancelled"}, ("j1111111111",)),
        ({"j1111111111": "succeeded"}, ()),
        ({"j1111111111": "already_installed"}, ()),
        ({"j2222222222": "offered"}, ()),
    ],
)
def test_it_waits_for_what_this_client_still_has_to_do(standing: dict[str, str], after: tuple[str, ...]) -> None:
    made = facts(JobOrder(package="tool", group="all", after=("j1111111111",)))
    assert render(made, standing).after == after


def test_approvals_carry_this_clients_own_proof() -> None:
    made = facts(envelopes=(b"{}",), proofs={CLIENT: ("L" + "0" * 64,)})
    [approval] = render(made).approvals
    assert approval.proof == ("L" + "0" * 64,)
    [other] = render(made, client="f" * 32).approvals
    assert other.proof == ()


def test_mandatory_and_optional_times() -> None:
    later = NOW + timedelta(days=1)
    assert render(facts()).mandatory_after == NOW
    assert render(facts(JobOrder("tool", "all", offer_after=later))).mandatory_after == later
    assert render(facts(JobOrder("tool", "all", purpose="optional"))).mandatory_after is None
    deadline = JobOrder("tool", "all", mandatory_after=later)
    assert (render(facts(deadline)).offer_after, render(facts(deadline)).mandatory_after) == (NOW, later)
