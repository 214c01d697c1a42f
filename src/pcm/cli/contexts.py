"""Contexts: which sites this administrator talks to, kept in `~/.config/pcm/contexts.yaml` (0600).

Serves steps 2 and 3: every verb that asks a site finds its address and token here, unless they are given on the command
line. Tokens stay in files of their own; only their paths stand here. It opens no connection.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcm.model.errors import RequestError, StoreError
from pcm.model.names import check_name

_MAX_BYTES = 256 * 2**10


@dataclass(frozen=True)
class SiteContext:
    """One site: its URL, and files with the API token, the pinned root of its package repository, the authority for https."""

    site: str
    token_file: str
    packages_root: str | None = None
    ca_file: str | None = None


@dataclass
class Contexts:
    """All contexts, and which one is used when none is named."""

    known: dict[str, SiteContext] = field(default_factory=dict)
    current: str | None = None

    def find(self, name: str | None) -> SiteContext | None:
        """The named one, or the current one, or None.

        Raises:
            RequestError: `not_found`.
        """
        wanted = name or self.current
        if wanted is None:
            return None
        if wanted not in self.known:
            raise RequestError(
                f"There is no context {wanted!r}; there {'is' if len(self.known) == 1 else 'are'}: "
                f"{', '.join(self.known) or 'none'}. Add it with: pcm context add {wanted}",
                code="not_found",
            )
        return self.known[wanted]


def config_folder() -> Path:
    """`$XDG_CONFIG_HOME/pcm`, by default `~/.config/pcm`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pcm"


def state_folder() -> Path:
    """`$XDG_STATE_HOME/pcm`, by default `~/.local/state/pcm`: what this machine remembers of package repositories."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pcm"


def contexts_file() -> Path:
    """Where contexts are kept."""
    return config_folder() / "contexts.yaml"


def load() -> Contexts:
    """Read all contexts; none if there is no file.

    Raises:
        RequestError: `request.contexts`: damaged, or writable by others.
    """
    import yaml  # noqa: PLC0415 - only when a context is needed

    path = contexts_file()
    try:
        if path.stat().st_mode & 0o022:
            raise RequestError(
                f"{path} can be changed by others. Make it private: chmod 600 {path}", code="request.contexts"
            )
        data = path.read_bytes()[:_MAX_BYTES]
        read = yaml.safe_load(data) or {}
        known = {str(name): _read_context(fields) for name, fields in dict(read.get("contexts") or {}).items()}
        current = read.get("current")
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.", code="request.contexts") from None
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise RequestError(
            f"{path} is damaged: {str(error)[:200]}. Mend or remove it.", code="request.contexts"
        ) from None
    return Contexts(known, str(current) if current is not None else None)


def _read_context(fields: Any) -> SiteContext:
    root, ca = fields.get("packages_root"), fields.get("ca_file")
    return SiteContext(
        str(fields["site"]),
        str(fields["token_file"]),
        str(root) if root is not None else None,
        str(ca) if ca is not None else None,
    )


def save(contexts: Contexts) -> Path:
    """Write all contexts, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    import yaml  # noqa: PLC0415 - see load

    listed = {
        name: {"site": context.site, "token_file": context.token_file}
        | ({"packages_root": context.packages_root} if context.packages_root else {})
        | ({"ca_file": context.ca_file} if context.ca_file else {})
        for name, context in contexts.known.items()
    }
    text = yaml.safe_dump({"current": contexts.current, "contexts": listed}, sort_keys=False)
    return write_private(contexts_file(), text.encode())


def write_private(path: Path, data: bytes) -> Path:
    """Write a file that only its owner reads (0600), whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def check_context_name(name: str) -> str:
    """Return `name` if it may name a context. Raises RequestError `request.name`."""
    return check_name("site", name)
