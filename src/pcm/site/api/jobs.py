"""Endpoints about jobs and their approvals."""

from pcm.protocol.admin_jobs import ApprovalOffer, JobRequest
from pcm.site import approvals, job_life, job_views, jobs
from pcm.site.api.calls import Call, Reply


def list_jobs(call: Call) -> Reply:
    """`GET /v1/jobs`."""
    with call.site.database.read() as connection:
        return Reply(job_views.list_jobs(connection, call.slice()))


def create_job(call: Call) -> Reply:
    """`POST /v1/jobs`: the job, or with `dry_run` the plan."""
    asked = call.parse(JobRequest)
    site = call.site
    if asked.dry_run:
        with site.database.read() as connection:
            return Reply(jobs.plan(connection, asked.order, site.clock()))
    with site.database.write() as connection:
        job = jobs.create(connection, asked.order, call.actor.name, site.clock())
        shown = job_views.show_job(connection, job)
    site.wake.set()
    return Reply(shown, 201)


def show_job(call: Call) -> Reply:
    """`GET /v1/jobs/{job}`."""
    with call.site.database.read() as connection:
        return Reply(job_views.show_detail(connection, call.names["job"], call.slice()))


def cancel_job(call: Call) -> Reply:
    """`POST /v1/jobs/{job}/cancel`."""
    job = call.names["job"]
    with call.site.database.write() as connection:
        job_life.cancel(connection, job, call.actor.name, call.site.clock())
        shown = job_views.show_job(connection, job)
    call.site.wake.set()
    return Reply(shown)


def ask_approval(call: Call) -> Reply:
    """`GET /v1/jobs/{job}/approval?emergency=true`."""
    emergency = call.query.get("emergency", "").lower() in {"1", "true", "yes"}
    with call.site.database.read() as connection:
        return Reply(approvals.question(connection, call.names["job"], call.site.name, emergency=emergency))


def add_approval(call: Call) -> Reply:
    """`POST /v1/jobs/{job}/approvals`."""
    offer = call.parse(ApprovalOffer)
    site, job = call.site, call.names["job"]
    with site.database.write() as connection:
        approvals.add(connection, job, offer.envelope, site.name, call.actor.name, site.clock())
        shown = job_views.show_job(connection, job)
    site.wake.set()
    return Reply(shown, 201)
