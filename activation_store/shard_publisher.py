"""Publishing the shards of one rank: the file in its place, a line in the log, statistics in the sums."""

import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from activation_store.commit_log import CommitLog, log_path, writer_tag
from activation_store.entries import Entry, shard_path, shard_place
from activation_store.errors import StoreError
from activation_store.files import JSON, digest, fsync, leave_page_cache, put_in_place, temporary_path
from activation_store.listing import Listing
from activation_store.moments import Moments
from activation_store.samples import prompts_digest
from activation_store.schema import Schema
from activation_store.shard import open_shard, read_moments
from activation_store.shard_writer import ShardWriter
from activation_store.store_statistics import EVERY, LogStatistics, statistics_path


class ShardPublisher:
    """Writes the log and the statistics of one rank, which must hold the rank's lock."""

    def __init__(self, path: Path, schema: Schema, rank: int, listing: Listing) -> None:
        self.path, self.schema, self.tag = path, schema, writer_tag(rank)
        self.entries = {entry.start: entry for entry in listing.entries}
        """The store's shards by their first image, those that are published here among them."""
        place = log_path(path, rank)
        self._log = next((log for log in listing.logs if log.path == place), CommitLog(place, schema))
        self._statistics: LogStatistics | None = None
        self._ahead = 0  # shards committed since the statistics were written

    def begin(self, versions: JSON) -> None:
        """Make the log ready, and remove the shorter shard of a writer that was killed after a commit."""
        self._log.begin(versions)
        for entry in self._log.entries:
            if self.entries[entry.start].name != entry.name:
                shard_path(self.path, self.schema, entry).unlink(missing_ok=True)

    def new(self, start: int, stop: int, disk: Executor, sync: Executor) -> ShardWriter:
        """A shard to be filled; `disk`, `sync`: see `ShardWriter`."""
        name = Entry(start, stop, 0, "", "").name
        with self.naming(start, stop):
            temporary = temporary_path(self.path / name, self.tag)
            return ShardWriter(temporary, self.schema, start, stop, disk, sync)

    def link(self, entry: Entry, file: Path, moments: Mapping[str, Moments]) -> None:
        """Take a whole shard of a store with the same settings: a hard link to its file, or a copy of it."""
        place = self._place(entry)
        if not place.exists():
            temporary = temporary_path(self.path / place.name, self.tag)
            try:
                os.link(file, temporary)
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, temporary)
            put_in_place(temporary, place)
        self._commit(entry, moments)

    def publish(self, shard: ShardWriter) -> None:
        """Put a full shard in its place and commit it."""
        try:
            with self.naming(shard.start, shard.stop):
                moments = shard.finish()
                size, prompts = shard.path.stat().st_size, prompts_digest(shard.samples)
                entry = Entry(shard.start, shard.stop, size, digest(shard.path), prompts, shard.absent)
                entry = replace(entry, room=shard.room)
                put_in_place(shard.path, place := self._place(entry))
                self._commit(entry, moments)
                leave_page_cache(place)
        except BaseException:
            shard.abandon()
            raise

    def _place(self, entry: Entry) -> Path:
        place = shard_place(self.path, self.schema, entry.start, entry.name)
        if not place.parent.exists():
            place.parent.mkdir()
            fsync(place.parent.parent)
        return place

    def _commit(self, entry: Entry, moments: Mapping[str, Moments]) -> None:
        """Append one line to the log (once a published shard), count the shard, and remove the shorter one
        that it supersedes."""
        if self._statistics is None:
            self._statistics = self._read_statistics()
        self._log.append(entry)
        old = self.entries.get(entry.start)
        self.entries[entry.start] = entry
        self._statistics.add(entry, moments)
        if old is not None and old.name != entry.name:
            self._statistics.partial.pop(old.digest, None)
            shard_path(self.path, self.schema, old).unlink(missing_ok=True)
        self._ahead += 1
        if self._ahead >= EVERY:
            self.write_statistics()

    def _read_statistics(self) -> LogStatistics:
        """Of this rank's shards so far."""
        own = [e for e in self._log.entries if self.entries.get(e.start) == e]
        found = LogStatistics.read(statistics_path(self._log.path), self.schema, own)
        self._ahead += found.catch_up(own, self._moments_of)
        return found

    def _moments_of(self, entry: Entry) -> dict[str, Moments]:
        with open_shard(shard_path(self.path, self.schema, entry), self.schema, entry) as file:
            return {block: read_moments(file, self.schema, entry, block) for block in self.schema.blocks}

    def write_statistics(self) -> None:
        """Replace the file of sums, if shards were published since."""
        if self._statistics is not None and self._ahead:
            self._statistics.write(statistics_path(self._log.path), self.tag)
            self._ahead = 0

    @contextmanager
    def naming(self, start: int, stop: int) -> Iterator[None]:
        """An error of the disk becomes a StoreError that names the images."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"images {start}..{stop - 1} could not be written to {self.path}: {error.strerror or error}. "
                "All shards before are safe; make room and run the same command again"
            ) from error
