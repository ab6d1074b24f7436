"""Writing HDF5 on a disk that may fill: an ordinary OSError, never a crash of the process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


@contextmanager
def new_hdf5(
    path: str | os.PathLike, libver: tuple[str, str] | None = None, disk: "HDF5Disk | None" = None
) -> Iterator[h5py.File]:
    """A new HDF5 file to write. OSError that names it when the disk refuses, FileExistsError if it is there.

    `libver`: of the format, as h5py's. `disk` is told of errors before the end.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        disk = disk or HDF5Disk()
        disk.descriptor = descriptor
        with h5py.File(Path(path), "w", libver=libver, driver="fileobj", fileobj=disk) as file:
            yield file
        if disk.error is not None:
            raise OSError(disk.error.errno, disk.error.strerror, os.fspath(path)) from disk.error
    finally:
        os.close(descriptor)


class HDF5Disk:
    """The file that HDF5 writes to, so that a full disk is an ordinary OSError.

    HDF5 that cannot flush cannot close either, and the interpreter may then crash at exit. This file
    remembers the first error, swallows what follows, lets HDF5 close, and leaves raising to its owner.
    """

    def __init__(self) -> None:
        self.descriptor, self.at, self.end = -1, 0, 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.end}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                done += os.pwrite(self.descriptor, view[done:], self.at + done)
        except OSError as error:
            self.error = error
        self.at += len(view)
        self.end = max(self.end, self.at)
        return len(view)

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self.descriptor, len(view), self.at)
        view[: len(data)] = data
        self.at += len(data)
        return len(data)

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self.descriptor, size)
        except OSError as error:
            self.error = self.error or error
        self.end = size

    def flush(self) -> None:
        """Nothing is buffered here."""
