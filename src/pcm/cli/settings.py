"""What a call of `pcm` was told besides its own arguments: which site, how to show results, what may go unasked.

Serves every verb, before its work: `verbs` fills it from the options that stand everywhere, `main` from the environment. It finds
the site and its token; `api` talks to it.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pcm.cli import contexts
from pcm.model.errors import RequestError

if TYPE_CHECKING:
    from pcm.cli.api import Api

Output = Literal["table", "json", "yaml"]
_MAX_TOKEN = 4096


@dataclass
class Settings:
    """The options that every verb takes. `site`: a URL, or a site's folder on this machine."""

    site: str | None = None
    token_file: str | None = None
    context: str | None = None
    output: Output = "table"
    yes: bool = False
    debug: bool = False
    insecure_http: bool = False
    ca_file: str | None = None

    def connect(self) -> "Api":
        """Talk to the site.

        Raises:
            RequestError: `usage`: no site is given or known; `not_found`; `not_allowed`: no token, or one that others can read.
        """
        from pcm.cli.api import Api  # noqa: PLC0415 - httpx takes longer to load than most verbs to run

        found = self.find_site()
        return Api(
            found.site, read_token(Path(found.token_file)), insecure_http=self.insecure_http, ca_file=found.ca_file
        )

    def find_site(self) -> contexts.SiteContext:
        """Which site is meant, by options, environment or context.

        Raises:
            RequestError: as `connect`.
        """
        site = self.site or (None if self.context else os.environ.get("PCM_SITE"))
        token_file = self.token_file or os.environ.get("PCM_TOKEN_FILE")
        ca_file = self.ca_file or os.environ.get("PCM_CA_FILE")
        if site is not None and "://" not in site:
            folder = site_folder(Path(site))
            return contexts.SiteContext(
                site_url(folder), token_file or str(folder / "admin.token"), None, ca_file or site_authority(folder)
            )
        known = contexts.load()
        if site is not None:
            same = next((context for context in known.known.values() if context.site == site.rstrip("/")), None)
            if token_file is None and same is None:
                raise RequestError(f"No token is known for {site}: give --token-file.", code="not_allowed")
            root, ca = (same.packages_root, same.ca_file) if same is not None else (None, None)
            token = token_file or (same.token_file if same is not None else "")
            return contexts.SiteContext(site, token, root, ca_file or ca)
        context = known.find(self.context)
        if context is None:
            raise RequestError(
                "Which site? Give --site URL (or a site's folder) with --token-file, or add one: pcm context add NAME",
                code="usage",
            )
        return contexts.SiteContext(
            context.site, token_file or context.token_file, context.packages_root, ca_file or context.ca_file
        )


def site_folder(folder: Path) -> Path:
    """Return a folder if a site lives there.

    Raises:
        RequestError: `not_found`.
    """
    if not (folder / "site.yaml").is_file():
        raise RequestError(f"There is no site in {folder}: it has no site.yaml.", code="not_found")
    return folder


def site_authority(folder: Path) -> str | None:
    """The authority for https that the `site.yaml` of a site on this machine names."""
    import yaml  # noqa: PLC0415 - only for a folder

    try:
        named = yaml.safe_load((folder / "site.yaml").read_bytes()[: 2**20])["tls"]["authority"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None
    return str(folder / str(named)) if named else None


def site_url(folder: Path) -> str:
    """The URL that a site's `site.yaml` names.

    Raises:
        RequestError: `request.site_file`.
    """
    import yaml  # noqa: PLC0415 - only for a folder

    path = folder / "site.yaml"
    try:
        url = yaml.safe_load(path.read_bytes()[: 2**20])["url"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        raise RequestError(f"{path} names no url.", code="request.site_file") from None
    return str(url)


def read_token(path: Path) -> str:
    """Read an API token from its file.

    Raises:
        RequestError: `not_found`; `not_allowed`; `request.key_exposed`: others can read it, so it counts as known.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_TOKEN + 1)
    except FileNotFoundError:
        raise RequestError(f"There is no token file {path}.", code="not_found") from None
    except OSError as error:
        raise RequestError(f"The token file {path} cannot be read: {error.strerror}.", code="not_allowed") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise RequestError(
            f"The token file {path} can be read by others. Make it private (chmod 600 {path}), and have the token revoked "
            "if somebody else could log in here.",
            code="request.key_exposed",
        )
    token = data.decode("ascii", "replace").strip()
    if not token or len(data) > _MAX_TOKEN or not token.isprintable() or " " in token:
        raise RequestError(f"The file {path} holds no API token.", code="not_allowed")
    return token
