"""`pcm client installer`: the client's setup, preset with this site, for computers that shall become its clients.

Comes before step 6. It asks the site for its kit (servers, pinned roots) and, if wanted, for a one-time token, and puts both
behind the setup that `make packages` made. It signs nothing: bring the result to computers by a way that you trust, as the
kit itself.
"""

import hashlib
import json
from pathlib import Path

import click

from pcm.cli import show
from pcm.cli.contexts import write_private
from pcm.cli.duration import DURATION
from pcm.cli.settings import Settings
from pcm.cli.setup_file import read_setup
from pcm.cli.verbs import Verb
from pcm.model.errors import RequestError
from pcm.protocol import codec
from pcm.protocol.admin import EnrolmentTokenAnswer, EnrolmentTokenRequest
from pcm.protocol.enrolment import ClientConfiguration

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("installer", cls=Verb)
@click.option(
    "--base",
    type=FILE,
    required=True,
    envvar="PCM_CLIENT_SETUP",
    show_envvar=True,
    help="The client's setup without a site (pcm-client-VERSION-MACHINE.run, from `make packages`).",
)
@click.option("--out", type=FILE, required=True, help="Write the preset setup to this file.")
@click.option("--token", is_flag=True, help="With a one-time token: the first computer that runs it is let in at once.")
@click.option("--expires-in", type=DURATION, default="1d", show_default=True, help="How long the token counts.")
@click.option("--host", help="Only a computer of this name may use the token.")
@click.pass_obj
def installer(settings: Settings, base: Path, out: Path, token: bool, expires_in: int, host: str | None) -> None:
    """Make a setup for computers of this site.

    Run as root on a computer (sudo sh FILE), it installs the client and enrols it, or brings a client that is there to the
    setup's version; key and records stay. Without --token each new computer waits until you approve it: one file serves many.
    """
    if host is not None and not token:
        raise RequestError("--host binds a token, so it needs --token.", code="usage")
    setup = read_setup(_read(base), str(base))
    with settings.connect() as api:
        configuration = api.get("/kit", ClientConfiguration)
        answer = (
            api.post("/enrolment-tokens", EnrolmentTokenRequest(expires_in, host), EnrolmentTokenAnswer)
            if token
            else None
        )
    kit = codec.encode(configuration)
    told = f"client of site {configuration.site}"
    if answer is not None:
        kit = codec.encode({**json.loads(kit), "token": answer.token})
        told += f", with a token for one computer until {show.moment(answer.expires)}"
    data = setup.preset(kit, told)
    write_private(out, data).chmod(0o700 if token else 0o755)
    show.print_done(
        settings,
        f"{out}: client {setup.version} for Linux on {setup.machine}, {told}. There: sudo sh {out.name}",
        file=str(out),
        version=setup.version,
        machine=setup.machine,
        site=configuration.site,
        sha256=hashlib.sha256(data).hexdigest(),
        expires=None if answer is None else answer.expires,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"The setup {path} cannot be read: {error.strerror}.", code="request.file") from None
