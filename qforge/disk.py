"""A finished file or folder gets its name: on the disk before it is seen, so that it is whole after a power cut, too."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def appear(partial: Path, final: Path) -> None:
    """Rename what is finished, once every byte below it is on the disk; when this returns, so is the name.

    A rename alone may outlive what it names: the kernel writes a new file's blocks up to half a minute later (ext4 30 s,
    vm.dirty_expire_centisecs), and its name as soon as another process has its own written. Raises OSError where the disk
    is full, which some file systems say no earlier than here.
    """
    for base, _, names in os.walk(partial, topdown=False):  # nothing for a file
        for name in names:
            settle(Path(base, name))
        settle(Path(base))
    if not partial.is_dir():
        settle(partial)
    partial.rename(final)
    settle(final.parent)


def settle(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # what some network file systems answer for a folder
            raise
    finally:
        os.close(descriptor)
