"""A folder as output: `NAME` when published, `NAME.e3.part` while the claim of epoch 3 writes it.

Nothing here escapes the folder: names were checked when the job was enqueued, and every folder
below the root is opened without following links.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterator
from pathlib import Path, PurePosixPath

from pipeline.ports import Fault, PartVanishedError
from tokenspool.model import Job

_READ = 1024 * 1024
#: A claim looks for the parts of this many epochs before it by name; a folder of 100,000 outputs
#: must not be listed for each claim.
_NEAR_EPOCHS = 64


def part_name(name: str, epoch: int) -> str:
    """Give the name of a claim's own part."""
    return f"{name}.e{epoch}.part"


class FolderPart:
    """One claim's part file. Made at the first write; nobody else ever writes into it."""

    def __init__(self, folder: int, final: str, epoch: int) -> None:
        """Take over `folder`, an open descriptor; `final` is the published name."""
        self.folder = folder
        self.name = part_name(final, epoch)
        self._final, self._epoch = final, epoch
        self._file: int | None = None

    def write(self, data: bytes, *, at: int) -> None:
        """Write all of `data` at an offset; raises OSError, after which the end is unknown."""
        file = self._open()
        view = memoryview(data)
        while view:
            written = os.pwrite(file, view, at)
            view, at = view[written:], at + written

    def read(self) -> Iterator[bytes]:
        """Yield what is in the file, from the start."""
        file, at = self._open(), 0
        while data := os.pread(file, _READ, at):
            yield data
            at += len(data)

    def truncate(self) -> None:
        """Begin again from zero."""
        os.ftruncate(self._open(), 0)

    def publish(self, fault: Fault) -> None:
        """Sync the file, then rename it to the output's name; the folder is still to be synced."""
        os.fsync(self._open())
        fault("after_fsync")
        try:
            os.replace(self.name, self._final, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except FileNotFoundError as error:
            raise PartVanishedError(self.name) from error
        # A worker that was slow to let go may have made its own since we began.
        self.remove_older()
        fault("after_rename")

    @property
    def place(self) -> Hashable:
        """See the port: the folder."""
        status = os.fstat(self.folder)
        return status.st_dev, status.st_ino

    def sync_place(self) -> None:
        """Sync the folder: the new names survive a power cut."""
        os.fsync(self.folder)

    def remove_older(self) -> None:
        """Delete the parts of the claims before, as far as they may still be there."""
        for epoch in range(max(1, self._epoch - _NEAR_EPOCHS), self._epoch):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part_name(self._final, epoch), dir_fd=self.folder)

    def remove(self) -> None:
        """Delete the file, if there still is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)

    def close(self) -> None:
        """Close the descriptors."""
        for handle in (self._file, self.folder):
            if handle is not None and handle >= 0:
                with contextlib.suppress(OSError):
                    os.close(handle)
        self._file, self.folder = None, -1

    def _open(self) -> int:
        if self._file is None:
            # Exclusive: what lies there since we looked may be a link into somebody else's file.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self.name, flags, 0o600, dir_fd=self.folder)
        return self._file


class FolderOutput:
    """Publishes into one folder on a local or shared file system."""

    def __init__(self, root: str) -> None:
        """Name the folder; it is made when first needed."""
        self._root = Path(root)

    def open(self, job: Job) -> FolderPart:
        """Begin this claim's own part and remove those of older claims."""
        folder, name = self._folder(job.name)
        part = FolderPart(folder, name, job.epoch)
        try:
            part.remove_older()
            # Our own epoch is new, so a file of that name can only be a leftover of a restored
            # database: what it holds is not known.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part.name, dir_fd=folder)
        except BaseException:
            part.close()
            raise
        return part

    def _folder(self, name: str) -> tuple[int, str]:
        """Open the folder that holds `name`, making what is missing; give it and the last part."""
        self._root.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = os.open(self._root, flags)
        parts = PurePosixPath(name).parts
        try:
            for below in parts[:-1]:
                made = True
                try:
                    os.mkdir(below, 0o755, dir_fd=folder)
                except FileExistsError:
                    made = False
                inner = os.open(below, flags | os.O_NOFOLLOW, dir_fd=folder)
                if made:
                    # The new name must survive a power cut before a file in it is called done.
                    os.fsync(folder)
                os.close(folder)
                folder = inner
        except BaseException:
            os.close(folder)
            raise
        return folder, parts[-1]
