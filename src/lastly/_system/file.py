"""Who a file is: device, inode and birth time, and the mount it was reached through.

Device and inode alone do not name a file: ext4 gives a new directory the inode of the one removed a moment
ago. The birth time tells the two apart, and a mount id tells a bind mount from the folder it was mounted over
(their device numbers are equal). Only statx() reports them, and only ctypes reaches statx() from CPython
3.11–3.13.
"""

import os
import struct
import sys

from lastly._system import probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_NO_AUTOMOUNT = 0x800
_AT_SYMLINK_NOFOLLOW = 0x100
_BTIME = 0x800
_MNT_ID = 0x1000
_WANTED = 0x7FF | _BTIME | _MNT_ID
_MOUNT_ROOT = 0x2000  # an attribute: this is the topmost folder of a mount

# struct statx of linux/stat.h: mask … attributes … uid … mode … ino … btime … dev major, minor … mnt_id
_LAYOUT = struct.Struct("=I4xQ4xI4xH2xQ40xqI44xIIQ")


class Entry:
    """One file as the kernel describes it; ``btime`` in nanoseconds, None where the file system has none."""

    __slots__ = ("btime", "dev", "ino", "mode", "mount", "mount_root", "uid")

    # A plain class: importing typing or dataclasses costs more than all of this module.
    def __init__(  # noqa: PLR0917 - the fields of one system call, in its order
        self,
        dev: int,
        ino: int,
        btime: int | None,
        uid: int,
        mode: int,
        mount: int | None,
        mount_root: bool,
    ) -> None:
        self.dev = dev
        self.ino = ino
        self.btime = btime
        self.uid = uid
        self.mode = mode
        self.mount = mount
        self.mount_root = mount_root


def _load() -> "Callable[[int, bytes, int], bytes] | None":
    if probe.missing("statx"):
        return None
    try:
        call, buffer, errno_of = _function()
    except (ImportError, AttributeError):  # built without libffi; glibc < 2.28, musl < 1.2.5
        return None

    def statx(fd: int, name: bytes, flags: int) -> bytes:
        out = buffer()
        if call(fd, name, flags, _WANTED, out) != 0:
            code = errno_of()
            raise OSError(code, os.strerror(code), name)
        raw: bytes = out.raw
        return raw

    return statx


def _function() -> "tuple[Any, Any, Callable[[], int]]":
    """Return statx of the C library, what makes its buffer, and what tells its errno.

    In CPython by what ctypes is made of: that module is a tenth of what a program's first action costs.
    """
    if sys.implementation.name != "cpython":
        import ctypes

        call: Any = ctypes.CDLL(None, use_errno=True).statx
        call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p]
        return call, ctypes.c_char * 256, ctypes.get_errno
    import _ctypes

    c: Any = _ctypes
    simple: Any = c._SimpleCData  # noqa: SLF001  # the public c_int and its kin are made of it
    integer, text, unsigned, char = (type(code, (simple,), {"_type_": code}) for code in "izIc")
    buffer = type("buffer", (c.Array,), {"_type_": char, "_length_": 256})
    flags = {"_flags_": c.FUNCFLAG_CDECL | c.FUNCFLAG_USE_ERRNO, "_restype_": integer}
    try:
        call = type("function", (c.CFuncPtr,), flags)(c.dlsym(c.dlopen(None, 0), "statx"))
    except OSError:
        raise AttributeError("statx") from None
    call.argtypes = [integer, text, integer, unsigned, buffer]
    return call, buffer, c.get_errno


_statx: "Callable[[int, bytes, int], bytes] | bool | None" = False  # False: not tried yet; None: not there


def entry(name: str | bytes = b"", *, dir_fd: int) -> Entry:
    """Return the :class:`Entry` of ``name`` inside ``dir_fd``, or of ``dir_fd`` itself; never follows a link.

    Raises:
        OSError: nothing there, or no permission to look.
    """
    global _statx
    if _statx is False:
        _statx = _load()
    raw_name = os.fsencode(name)
    if callable(_statx):
        flags = _AT_NO_AUTOMOUNT | _AT_SYMLINK_NOFOLLOW | (0 if raw_name else _AT_EMPTY_PATH)
        try:
            return _parse(_statx(dir_fd, raw_name, flags), raw_name, dir_fd)
        except OSError as error:
            if error.errno not in (38, 1):  # ENOSYS, or EPERM from a seccomp filter older than statx
                raise
    return _by_stat(raw_name, dir_fd)


def has_statx() -> bool:
    """Whether the kernel, the C library and this Python tell when a file was made. Tried anew."""
    call = _load()
    try:
        return call is not None and bool(call(_AT_FDCWD, b"/", 0))
    except OSError:
        return False


def _parse(raw: bytes, name: bytes, dir_fd: int) -> Entry:
    mask, attributes, uid, mode, ino, seconds, nanos, major, minor, mount = _LAYOUT.unpack_from(raw)
    return Entry(
        dev=os.makedev(major, minor),
        ino=ino,
        # ext4's root and files made before it kept birth times say 0: that is none
        btime=(seconds * 1_000_000_000 + nanos) or None if mask & _BTIME else None,
        uid=uid,
        mode=mode,
        mount=mount if mask & _MNT_ID else _mount_of(name, dir_fd),
        mount_root=bool(attributes & _MOUNT_ROOT),
    )


def _by_stat(name: bytes, dir_fd: int) -> Entry:
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False) if name else os.fstat(dir_fd)
    mount = _mount_of(name, dir_fd)
    return Entry(found.st_dev, found.st_ino, None, found.st_uid, found.st_mode, mount, mount_root=False)


def _mount_of(name: bytes, dir_fd: int) -> int | None:
    """Read the mount id where statx does not give it (before Linux 5.8); None without /proc."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd) if name else dir_fd
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
            return next((int(line[7:]) for line in lines if line.startswith(b"mnt_id:")), None)
    except OSError:
        return None
    finally:
        if name:
            os.close(fd)


def umask() -> int:
    """The umask of this process, without changing it where the kernel tells it."""
    from lastly._system import proc

    if shown := proc.status("self", b"Umask"):
        return int(shown, 8)
    before = os.umask(0o077)  # for a moment: a file that another thread makes now is private, never open
    os.umask(before)
    return before
