"""The clean-up or check that runs: one at a time, in a thread of its own, followed from outside.

Serves step 2 from outside: `site.api.content` begins one and shows how far it is; `content_care` does the work. A site that stops
leaves it undone: nothing but time is lost.
"""

import logging
import threading

import msgspec

from pcm.model.errors import PcmError, RequestError
from pcm.protocol.admin_content import ClearOrder, ContentTask, VerifyOrder
from pcm.site import content_care
from pcm.site.authority import Site

_log = logging.getLogger(__name__)
_turn = threading.Lock()
_tasks: dict[int, ContentTask] = {}


def current(site: Site) -> ContentTask:
    """What runs, or ran last since the site was started."""
    with _turn:
        return _tasks.get(id(site), ContentTask("none", running=False))


def begin(site: Site, order: ClearOrder | VerifyOrder, actor: str) -> ContentTask:
    """Begin a clean-up or a check.

    Raises:
        RequestError: `conflict`: one runs; `request.grace`.
    """
    clearing = isinstance(order, ClearOrder)
    if isinstance(order, ClearOrder):
        content_care.check_grace(order.grace_s, dry_run=order.dry_run)
    task = ContentTask("gc" if clearing else "verify", running=True, started=site.clock(), dry_run=_is_dry(order))
    with _turn:
        running = _tasks.get(id(site))
        if running is not None and running.running:
            raise RequestError(f"A {running.kind} runs already; `pcm content task` follows it.", code="conflict")
        _tasks[id(site)] = task
    threading.Thread(target=_run, args=(site, order, actor), name="content-task", daemon=True).start()
    return task


def _run(site: Site, order: ClearOrder | VerifyOrder, actor: str) -> None:
    def told(place: str, done: int, total: int) -> None:
        _note(site, place=place, done=done, total=total)

    try:
        if isinstance(order, ClearOrder):
            cleared = content_care.clear(site, grace_s=order.grace_s, dry_run=order.dry_run, actor=actor, told=told)
            _note(site, cleared=cleared)
        else:
            _note(site, verified=content_care.verify(site, repair=order.repair, actor=actor, told=told))
    except PcmError as error:
        _log.warning("content: %s (%s)", error.message, error.code)
        _note(site, error=error.message, error_code=error.code)
    finally:
        _note(site, running=False, ended=site.clock())


def _note(site: Site, **changes: object) -> None:
    with _turn:
        _tasks[id(site)] = msgspec.structs.replace(_tasks[id(site)], **changes)


def _is_dry(order: ClearOrder | VerifyOrder) -> bool:
    return isinstance(order, ClearOrder) and order.dry_run
