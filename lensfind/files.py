"""Files that appear under their names only when they are whole, whatever happens to the writer."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lensfind.errors import LensfindError

__all__ = ["NO_ROOM", "clear_aside", "locked", "whole_file", "write_file"]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file size that is used up."""


@contextmanager
def whole_file(path: Path, size: int = 0) -> Iterator[BinaryIO]:
    """A file to write aside that takes the name ``path`` when the block ends well, and vanishes when not.

    Args:
        path: Its folder is made if it is not there.
        size: Bytes that will be written, for the message.

    Raises:
        LensfindError: The disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself must outlive a power cut
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            there = next(folder for folder in path.absolute().parents if folder.exists())
            free = shutil.disk_usage(there).free / 1e6
            raise LensfindError(
                f"room for {path.name}{f' ({size / 1e6:.1f} MB)' if size else ''} in {path.parent}",
                f"{os.strerror(error.errno).lower()}, {free:.1f} MB free",
                "Make room or choose another folder, then run the same command again: what is whole is kept.",
            ) from error
        raise LensfindError(
            f"to write {path}", f"{error.strerror or error}".lower(), "Choose a folder that you may write to."
        ) from error


def clear_aside(aside: Path) -> None:
    """Remove what a :func:`whole_file` left whose process was killed; leave it while that process lives."""
    try:
        os.kill(int(aside.suffix[1:]), 0)
    except (ValueError, ProcessLookupError):
        aside.unlink(missing_ok=True)
    except PermissionError:  # it lives, under another user
        return


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Only one process at a time, on one machine, makes what stands at ``root``; the others wait here."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.parent / f".{root.name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_file(path: Path, content: bytes | str) -> None:
    """``content`` (text as UTF-8) as a :func:`whole_file`."""
    data = content.encode() if isinstance(content, str) else content
    with whole_file(path, len(data)) as file:
        file.write(data)
