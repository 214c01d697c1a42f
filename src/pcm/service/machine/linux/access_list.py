"""Letting exactly one more user read what belongs to the administrator. Serves step 8 (`stage`), for programs run as a user.

By a POSIX access list (acl(5)), not by a group: an account's main group may hold everybody, and a program could keep the
rights of a group of its own for ever in a file with the set-group-id bit. The list is written whole through an open descriptor,
so it takes away whatever a folder's default list has handed down. Its mask shows as the group bits of the mode.
"""

import errno
import os
import struct

from pcm.model.errors import MachineError, Retry

_NAME = "system.posix_acl_access"
_VERSION = struct.Struct("<I")  # include/uapi/linux/posix_acl_xattr.h
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF


def let_read(descriptor: int, owner: int, user_id: int) -> None:
    """Give a file or folder the owner's rights `owner` (0 to 7), and one user the same without writing; nobody else any.

    Raises:
        MachineError: `machine.no_access_lists`, the file system has none.
        OSError: anything else.
    """
    theirs = owner & 0o5
    entries = (
        (_OWNER, owner, _NOBODY),
        (_USER, theirs, user_id),
        (_GROUP, 0, _NOBODY),
        (_MASK, theirs, _NOBODY),
        (_OTHERS, 0, _NOBODY),
    )
    try:
        os.setxattr(descriptor, _NAME, _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in entries))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise MachineError(
            "The file system of the staging folder has no access lists, so a package cannot be shown to one user alone; keep "
            "the service's state on one that has them (ext4, xfs, btrfs).",
            code="machine.no_access_lists",
            retry=Retry.NEVER,
        ) from error
