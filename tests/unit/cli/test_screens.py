"""How results fit a screen: width, sections, and foreign text that would like to be a row of its own. Jobs of many clients."""

import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from pcm.cli import approving, content, jobs, show
from pcm.cli.api import Api
from pcm.cli.settings import Settings
from pcm.model.errors import RequestError
from pcm.model.job import JobOrder
from pcm.protocol import codec
from pcm.protocol.admin import AssignmentView, Page, RefusalView, ResultView
from pcm.protocol.admin_content import ContentTask, Damage, Verified
from pcm.protocol.admin_jobs import JobDetail, JobView
from pcm.protocol.approval import ApprovalOrder

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LONG = "The manifest that the distribution server gave is another one than the order names, by its hash. " * 4


def assignment(number: int, state: str = "succeeded", host: str = "", reason: str = "") -> AssignmentView:
    client = f"{number:032x}"
    name = host or f"pc-{number}"
    return AssignmentView("j1", client, name, f"j1.{number}", 1, "tool", "1.0", "install", state, "", reason, NOW)


def job(counts: dict[str, int], state: str = "active") -> JobView:
    order = JobOrder(package="tool", group="all")
    return JobView("j1", state, order, "tool", "1.0", 1, "install", 1, NOW, "ann", None, counts)  # type: ignore[arg-type]


def detail(items: list[AssignmentView], counts: dict[str, int], after: str | None = None) -> JobDetail:
    result = ResultView("r", "j1", "0" * 32, "pc-0", 1, NOW, NOW, NOW, 0, "success", False, True, "", 0)
    refusal = RefusalView("0" * 32, "pc-0", "trust.rollback", NOW, NOW, LONG, "https://site/logon", 3)
    return JobDetail(job(counts), Page(tuple(items), after), (result,), (refusal,))


def test_long_reasons_wrap_within_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    jobs.show_detail(Settings(), detail([assignment(1, "refused", reason=LONG)], {"refused": 1}))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    words = [word for word in re.findall(r"[a-z]+", out) if word in LONG]
    assert words.count("manifest") == 8, "nothing is cut off"


def test_runs_of_users_say_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    known = detail([assignment(1)], {"succeeded": 1})
    jobs.show_detail(Settings(), known)
    assert " as " not in capsys.readouterr().out
    of_alice = msgspec.structs.replace(known.results[0], run_as="alice")
    jobs.show_detail(Settings(), msgspec.structs.replace(known, results=(of_alice, *known.results)))
    shown = capsys.readouterr().out
    assert re.search(r"host +as +started", shown)
    assert re.search(r"pc-0 +alice ", shown)
    assert re.search(r"pc-0 +system ", shown)


def test_sections_are_one_blank_line_apart(capsys: pytest.CaptureFixture[str]) -> None:
    jobs.show_detail(Settings(), detail([assignment(1)], {"succeeded": 1}))
    out = capsys.readouterr().out
    assert "\n\nRuns\n host" in out
    assert "\n\nRefusals\n trust.rollback  3 times, " in out
    assert "\n\n\n" not in out
    assert not out.endswith("\n\n")


@pytest.mark.parametrize("forged", ["pc-1\n pc-2  succeeded  2 min ago", "a\r\nb", "a\x85b", "a\u2028b", "a\x0bb"])
def test_no_name_makes_a_row_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forged: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def shown(name: str) -> int:
        jobs.show_detail(Settings(), detail([assignment(1, "failed", host=name, reason=name)], {"failed": 1}))
        show.print_facts((("host", name), ("note", show.plain(name))))
        return len(capsys.readouterr().out.splitlines())

    assert shown(forged) == shown("pc-1")


def test_no_parameter_makes_a_line_of_its_own_in_what_an_approver_reads() -> None:
    order = ApprovalOrder(
        site="lab",
        job="j1",
        generation=1,
        package="tool",
        release=1,
        program="uninstall",
        manifest_sha256="0" * 64,
        parameters={"A": "x\n  on a fixed list of 1 clients"},
        expires=NOW,
    )
    text = approving._sentence(order)
    assert len(text.splitlines()) == 4
    assert "any client of the site" in text


class ManyClients:
    """A site with one job on many clients, that finishes after some looks."""

    def __init__(self, count: int, looks: int) -> None:
        self.count, self.looks, self.pages = count, looks, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        limit, cursor = int(request.url.params["limit"]), request.url.params.get("cursor")
        self.pages += 1
        if cursor is None and limit == 1:
            self.looks -= 1
        state = "succeeded" if self.looks <= 0 else "running"
        start = int(cursor or 0)
        items = [assignment(number, state) for number in range(start, min(start + limit, self.count))]
        following = str(start + limit) if start + limit < self.count else None
        body = codec.encode(detail(items, {state: self.count}, following))
        return httpx.Response(200, content=body, headers={"content-type": "application/json"})


@pytest.fixture
def many() -> Iterator[tuple[ManyClients, Api]]:
    site = ManyClients(2500, looks=4)
    with Api("http://127.0.0.1:1", "t", transport=httpx.MockTransport(site)) as api:
        yield site, api


def test_watching_shows_every_client_beyond_the_first_page(
    many: tuple[ManyClients, Api], capsys: pytest.CaptureFixture[str]
) -> None:
    site, api = many
    pauses: list[float] = []
    jobs.watch(Settings(), api, "j1", 1, None, pauses.append)
    out = capsys.readouterr().out.splitlines()
    for number in (0, 999, 1000, 2499):
        mine = [line for line in out if f" pc-{number} " in line]
        assert [line.split()[-1] for line in mine] == ["running", "succeeded"], number
    # unchanged counts cost one small question: 4 looks, of which 2 went through 3 pages
    assert site.pages == 4 + 2 * 3
    assert pauses == [1, 1, 1]


def test_watching_for_programs_ends_with_all_clients(
    many: tuple[ManyClients, Api], capsys: pytest.CaptureFixture[str]
) -> None:
    _, api = many
    pauses: list[float] = []
    jobs.watch(Settings(output="json"), api, "j1", 1, None, pauses.append)
    told = codec.parse(JobDetail, capsys.readouterr().out.encode(), kind="detail", max_bytes=10**8)
    assert len(told.assignments.items) == 2500


def test_watching_gives_up_in_time(many: tuple[ManyClients, Api], capsys: pytest.CaptureFixture[str]) -> None:
    site, api = many
    site.looks = 10**9
    with pytest.raises(RequestError) as raised:
        jobs.watch(Settings(), api, "j1", 0, 0)
    assert raised.value.code == "job.unfinished"
    assert "2500 running" in raised.value.message
    assert capsys.readouterr().out.count("\n") == 2500


def test_a_console_is_as_wide_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert show.console().width == 200
    monkeypatch.setenv("COLUMNS", "90")
    assert show.console().width == 90


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_refusal_fits_and_no_text_in_it_looks_like_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    forged = f"{'x' * 200} \n trust.forged  once, from nowhere"
    show.print_refusals([("trust.content", 1, NOW, f"on {forged}", f"{forged} {LONG}")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines[2:] if line.startswith(" ") and not line.startswith("   ")] == [lines[2]]
    assert lines[2].startswith(" trust.content  once, ")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_names_of_damaged_things_stay_whole_and_say_how_many_more_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"objects/ab/{number:064}.zst" for number in range(23)]
    damaged = tuple(Damage(name, f"other bytes\n home  {LONG}", mended=False) for name in names)
    content._print_damage(ContentTask("verify", running=False, verified=(Verified("home", 23, damaged),)))
    lines = capsys.readouterr().out.splitlines()
    first = [line for line in lines if not line.startswith("   ")]
    assert first[:20] == [f" home  {name}" for name in names[:20]]
    assert first[20:] == [" 3 more at home: --json tells all"]
    assert max(len(line) for line in lines if line.startswith("   ")) <= width
