"""Making a store of version 1 one of version 2, in place: its files stay as they are, and move to folders."""

import os
from pathlib import Path

from activation_store.commit_log import CommitLog, log_path
from activation_store.entries import SHARDS, shard_place
from activation_store.files import fsync, sweep, write_json
from activation_store.listing import read_listing, read_settings
from activation_store.locks import lock
from activation_store.manifest import manifest_paths, read_manifest
from activation_store.schema import VERSION
from activation_store.verify import Progress, write_statistics


def upgrade(path: str | os.PathLike, progress: Progress | None = None) -> int:
    """Upgrade the store in a folder; how many files moved. Digests stay what they were.

    Stopped or killed at any moment it is a good store of the one version or the other, for readers too, and
    the same call goes on. A log is written for each manifest, statistics are summed, `store.json` says the
    new version: from then on the logs count. Raises StoreError where a manifest is damaged, or while anything
    writes to the store.
    """
    folder = Path(path)
    schema, version = read_settings(folder)
    with lock(folder / "store.lock"):
        sweep(folder)
        read_listing(folder, schema, version)  # refuses what overlaps
        if version < VERSION:
            for rank, manifest in enumerate(manifest_paths(folder)):
                log = CommitLog(log_path(folder, rank), schema)
                log.replace(*read_manifest(manifest, schema))
                write_statistics(folder, schema, log, progress)
            write_json(folder / "store.json", schema.to_file(), tag="setup")
        for manifest in manifest_paths(folder):
            manifest.unlink()
        moved, places = 0, set()
        for entry in read_listing(folder, schema, VERSION).entries:
            flat, place = folder / SHARDS / entry.name, shard_place(folder, schema, entry.start, entry.name)
            if flat.exists() and not place.exists():
                place.parent.mkdir(exist_ok=True)
                os.rename(flat, place)
                moved += 1
                places.add(place.parent)
        for changed in [*places, folder / SHARDS, folder]:
            fsync(changed)
    return moved
