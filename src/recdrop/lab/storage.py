"""Files that survive a kill: whole or absent, one writer at a time."""

import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from recdrop.lab.environment import now
from recdrop.lab.errors import BadInput, StorageFailed

_HOLDER = "process "


@contextmanager
def storage(path: Path, needed: int | None = None) -> Iterator[None]:
    """Say what the system refused, and where.

    Args:
        path: File or folder that is worked on.
        needed: Bytes that are to be written, if it is known.

    Raises:
        StorageFailed: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        room = _room(path, needed)
        raise StorageFailed(f"{error.filename or path}: {reason}{room}") from error


def is_there(path: Path) -> bool:
    """Whether there is a file or folder.

    Raises:
        StorageFailed: The system refused to look.
    """
    with storage(path):
        return path.exists()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        StorageFailed: The system refused to read.
    """
    with storage(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Have a folder there, with those above it.

    Raises:
        BadInput: It, or one above it, is a file.
        StorageFailed: The system refused.
    """
    with storage(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            places = (folder, *folder.parents)
            file = next(place for place in places if place.exists() and not place.is_dir())
            raise BadInput(f"{file} is a file, expected a folder; choose another") from None


def write_whole(path: Path, content: str | bytes | Sequence[bytes | memoryview]) -> None:
    """Write a file so that after any kill it is the old one or the new one.

    Temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: Where; its folder exists.
        content: Text, written as UTF-8, or bytes, in one or several pieces.

    Raises:
        StorageFailed: The system refused.
    """
    temporary = path.with_name(path.name + ".tmp")
    data = content.encode() if isinstance(content, str) else content
    parts = [data] if isinstance(data, bytes) else data
    with storage(path, needed=sum(map(len, parts))):
        try:
            write_through(temporary, parts)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too: nothing half written stays
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def write_through(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that is on the disk for good when this returns."""
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Have the disk know which files a folder holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; the kernel lets go when the process ends, however it ends.

    Args:
        folder: Made if it is missing; its file ``lock`` names the last holder.

    Raises:
        BadInput: Another process holds it, the message says which; or a file is in its place.
        StorageFailed: The folder cannot be written.
    """
    path = folder / "lock"
    make_folder(folder)
    with storage(path):
        # Not buffered: what a full disk refuses would be refused once more when it is closed.
        file = path.open("a+b", buffering=0)
    with file:
        with storage(path):
            free = _take(file)
        if not free:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "another process"
            raise BadInput(f"{folder} is in use by {holder}")
        with storage(path):
            file.truncate(0)
            file.write(f"{_HOLDER}{os.getpid()} on {socket.gethostname()} since {now()}\n".encode())
        yield


def is_lock(content: str) -> bool:
    """Whether a file ``lock`` is what `locked` has written."""
    return content.startswith(_HOLDER)


def _take(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _room(path: Path, needed: int | None) -> str:
    wanted = "" if needed is None else f"{needed:,} bytes needed, "
    for folder in (path, *path.parents):
        try:
            return f" ({wanted}{shutil.disk_usage(folder).free:,} bytes free)"
        except OSError:
            continue  # not there, or not to be looked at
    return ""
