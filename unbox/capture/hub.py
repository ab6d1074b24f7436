"""Stores on the Hugging Face Hub, as data sets: shards go up in commits of some of them, the log last.

`huggingface_hub.upload_large_folder` is for any folder: it keeps a file of notes beside each one, decides
itself what goes into which commit, and may commit a log before the shards that it lists. A store knows the
digest of each shard already. So what is missing is found by one listing; each commit has `COMMIT_FILES`
shards at most (the Hub advises 50 to 100 files a commit), which is what a stop loses of commits, though not
of bytes: what the Hub has received it does not ask for again; and the last commit replaces log and sums and
removes what they supersede, all at once, so that the repository is a good store after each.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from activation_store import Store, StoreError, mirror
from activation_store.commit_log import CommitLog, log_paths
from activation_store.entries import SHARDS, Entry, range_of, shard_path
from activation_store.files import canonical, digest, write_json
from activation_store.listing import read_settings
from activation_store.locks import lock
from activation_store.remote_store import RemoteStore, is_url
from activation_store.schema import VERSION
from activation_store.verify import Progress
from unbox.capture.store_card import card
from unbox.errors import UnboxError
from unbox.text_files import read_json_object
from unbox.validation import HubName, Text, checked, parsed, validated

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile

#: Shards in one commit, and their bytes, at most (one at least).
COMMIT_FILES, COMMIT_BYTES = 100, 64 << 30

#: Shards that are sent at one time.
AT_ONCE = 8

#: Beside a store: where on the Hub it is, or came from.
RECORD = "hub.json"
CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    repo: str
    commit: str
    """On the Hub, with which the store is all there."""
    shards: int
    """That were sent."""
    bytes: int
    present: int
    """Shards that the Hub had."""

    def __add__(self, later: "Pushed") -> "Pushed":
        """Both of one repository together."""
        sums = (self.shards + later.shards, self.bytes + later.bytes, self.present + later.present)
        return Pushed(later.repo, later.commit, *sums)


class _Sent(NamedTuple):
    """A file that goes up."""

    place: str
    """In the repository."""
    file: Path
    size: int
    sha256: str


def push(
    folder: str | os.PathLike, repo: str, private: bool = False, progress: Progress | None = None
) -> Pushed:
    """Upload what the data set `owner/name` on the Hub, made if needed, lacks of the store in a folder.

    A shard that the Hub has with the digest of the log is not sent; one whose file is not as the log says is
    refused. The folder's `hub.json` records the commit. Stopped, the same call goes on. Ranks whose shards
    lie on several disks may push theirs one after another. Who may write is decided by `hf auth login` or
    HF_TOKEN.

    Raises UnboxError where the repository holds another store, or shards of the same ranks that the folder
    does not have; and where the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # of every answer, and of none

    repo, root, api = checked(HubName, "repo", repo, "push"), Path(folder), HfApi()
    if read_settings(root)[1] != VERSION:
        raise UnboxError(
            f"{root} was written by a version before: bring it up to date, `unbox store upgrade`"
        )
    try:
        with _no_bars(), lock(root / "store.lock", shared=True):
            api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            store = Store.open(root)
            pushed = _Push(api, repo, store, root, progress).run()
            for part in store.added:  # blocks that were added later
                under = Path(part.path)
                prefix = f"{under.relative_to(root).as_posix()}/"
                pushed += _Push(api, repo, part, under, progress, prefix).run()
            _write_record(root, repo, pushed.commit, store)
            return pushed
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UnboxError | StoreError):
            raise
        raise UnboxError(f"the Hub did not take {root} as {repo}: {_first(error)}") from error


def pull(
    source: str, folder: str | os.PathLike, revision: str | None = None, progress: Progress | None = None
) -> Store:
    """Copy to a folder what it lacks of the store in the data set `owner/name` of the Hub, or at a URL.

    `revision`: branch, tag or commit of the data set. Each shard is checked and committed as it comes
    (`activation_store.mirror`); stopped, the same call goes on. The folder's `hub.json` records the commit.
    """
    if is_url(source):
        if revision is not None:
            raise UnboxError(f"{source} is a URL: a revision is of a data set on the Hub")
        return mirror(source, folder, progress)
    repo = checked(HubName, "repo", source, "pull")
    commit = _commit_of(repo, None if revision is None else checked(Text, "revision", revision, "pull"))
    with _no_bars():
        store = mirror(f"hf://datasets/{repo}@{commit}", folder, progress)
    _write_record(Path(folder), repo, commit, store)
    return store


@validated
class HubRecord:
    """Where on the Hub a store is, or came from: what its `hub.json` says."""

    repo: HubName
    commit: Text
    digest: Text
    """Of the store then."""


def hub_record(folder: Path) -> HubRecord | None:
    """What a store's folder says of the Hub, if anything. Raises UnboxError where that is damaged."""
    path = folder / RECORD
    return parsed(HubRecord, read_json_object(path), str(path)) if path.is_file() else None


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without a bar for each file."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _commit_of(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # of every answer, and of none

    try:
        return str(HfApi().repo_info(repo, revision=revision, repo_type="dataset").sha)
    except (HTTPError, OSError, ValueError) as error:
        raise UnboxError(f"the data set {repo} could not be read from the Hub: {_first(error)}") from None


class _Push:
    """One push: what is missing, in commits."""

    def __init__(
        self,
        api: "HfApi",
        repo: str,
        store: Store,
        root: Path,
        progress: Progress | None,
        prefix: str = "",
    ) -> None:
        """`prefix`: the store's folder in the repository, with a slash."""
        self.api, self.repo, self.store, self.root, self.progress = api, repo, store, root, progress
        self.prefix = prefix
        self.head = str(api.repo_info(repo, repo_type="dataset").sha)
        self.there = {
            file.path.removeprefix(prefix): file for file in self._listed() if file.path.startswith(prefix)
        }

    def _listed(self) -> "Iterator[RepoFile]":
        from huggingface_hub.hf_api import RepoFile

        for each in self.api.list_repo_tree(
            self.repo, recursive=True, revision=self.head, repo_type="dataset"
        ):
            if isinstance(each, RepoFile):
                yield each

    def run(self) -> Pushed:
        self._refuse_other_stores()
        missing = list(self._missing())
        done = len(self.store.entries) - len(missing)
        for batch in _batches(missing):
            self._commit_shards(batch, done)
            done += len(batch)
        self._commit_lists()
        sent = sum(each.size for each in missing)
        return Pushed(self.repo, self.head, len(missing), sent, len(self.store.entries) - len(missing))

    def _missing(self) -> Iterator[_Sent]:
        """Shards that the Hub lacks, or has other bytes of."""
        longer = dict(self._ranges())
        for entry in self.store.entries:
            file = shard_path(self.root, self.store.schema, entry)
            place = file.relative_to(self.root).as_posix()
            if longer.get(entry.start, 0) <= entry.stop and not _is_same(self.there.get(place), entry):
                yield _Sent(place, file, entry.bytes, entry.digest)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Of the Hub's shards, the longest last of each start."""
        yield from sorted(r for path in self._shards_there() if (r := range_of(Path(path).name)) is not None)

    def _shards_there(self) -> list[str]:
        return [path for path in self.there if path.startswith(f"{SHARDS}/")]

    def _refuse_other_stores(self) -> None:
        """Raise UnboxError where the repository's settings differ, or a log lists what the folder has not."""
        with TemporaryDirectory() as folder:
            far = RemoteStore(f"hf://datasets/{self.repo}@{self.head}/{self.prefix}".rstrip("/"))
            settings = Path(folder) / "store.json"
            if "store.json" not in self.there or not far.fetch("store.json", settings):
                return
            schema = read_settings(Path(folder))[0]
            if canonical(schema.to_json()) != canonical(self.store.schema.to_json()):
                raise UnboxError(
                    f"{self.repo} holds a store of another run or other settings: push to another"
                )
            own = {entry.start for entry in self.store.entries}
            for path in log_paths(self.root):
                if path.name in self.there and far.fetch(path.name, Path(folder) / path.name):
                    listed = CommitLog.read(Path(folder) / path.name, schema).entries
                    if more := {entry.start for entry in listed} - own:
                        raise UnboxError(
                            f"{path.name} of {self.repo} lists {len(more):,} shards that {self.root} does "
                            "not have: `unbox store pull` them first"
                        )

    def _commit_shards(self, batch: Sequence[_Sent], done: int) -> None:
        """Send some shards, then commit them; `store.json` is in the first commit of all."""
        first = [] if "store.json" in self.there else [self._list_file("store.json")]
        operations = [_addition(each, self.prefix) for each in [*batch, *first]]
        for at in range(0, len(batch), AT_ONCE):
            some = operations[at : at + AT_ONCE]
            self.api.preupload_lfs_files(
                self.repo, some, repo_type="dataset", num_threads=AT_ONCE, free_memory=False
            )
            for each, operation in zip(batch[at : at + AT_ONCE], some, strict=False):
                if operation.upload_info.sha256.hex() != each.sha256:
                    raise UnboxError(
                        f"{each.file} is damaged: its digest is not the log's, and it is not committed to "
                        "the Hub; `unbox store repair` sets it aside"
                    )
            if self.progress:
                self.progress(done + min(at + AT_ONCE, len(batch)), len(self.store.entries))
        self._commit(operations, f"Add {len(batch)} shards")
        self.there |= dict.fromkeys(each.place for each in first)  # type: ignore[arg-type]

    def _commit_lists(self) -> None:
        """Replace logs, sums and settings, and remove shards that longer ones of the folder supersede."""
        from huggingface_hub import CommitOperationDelete

        names = ["store.json", *(path.name for path in log_paths(self.root))]
        names += [path.name for path in sorted(self.root.glob("statistics-*.bin"))]
        files = [self._list_file(name) for name in names]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            _addition(each, self.prefix)
            for each in files
            if not _is_same_file(self.there.get(each.place), each.file)
        ]
        if CARD not in self.there and not self.prefix:
            operations.append(_addition_of_bytes(CARD, card(self.store, self.repo).encode()))
        current = {entry.start: entry.stop for entry in self.store.entries}
        for path in self._shards_there():
            found = range_of(Path(path).name)
            if found is not None and found[1] < current.get(found[0], 0):
                operations.append(CommitOperationDelete(self.prefix + path))
        if operations:
            self._commit(operations, f"{len(self.store):,} images in {len(self.store.entries):,} shards")

    def _commit(self, operations: "Sequence[CommitOperationAdd | CommitOperationDelete]", about: str) -> None:
        info = self.api.create_commit(
            self.repo, operations, commit_message=about, repo_type="dataset", parent_commit=self.head
        )
        self.head = str(info.oid)

    def _list_file(self, name: str) -> _Sent:
        path = self.root / name
        return _Sent(name, path, path.stat().st_size, "")


def _addition(sent: _Sent, prefix: str) -> "CommitOperationAdd":
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(prefix + sent.place, sent.file)


def _addition_of_bytes(place: str, data: bytes) -> "CommitOperationAdd":
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(place, data)


def _batches(files: Sequence[_Sent]) -> Iterator[list[_Sent]]:
    batch: list[_Sent] = []
    for each in files:
        if batch and (len(batch) == COMMIT_FILES or sum(b.size for b in batch) + each.size > COMMIT_BYTES):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _is_same(there: "RepoFile | None", entry: Entry) -> bool:
    if there is None or there.size != entry.bytes:
        return False
    return there.lfs is not None and there.lfs.sha256 == entry.digest


def _is_same_file(there: "RepoFile | None", path: Path) -> bool:
    """Whether the Hub's file has the bytes of one here: by SHA-256, or for small ones by git's name."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == digest(path)
    data = path.read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _write_record(folder: Path, repo: str, commit: str, store: Store) -> None:
    write_json(folder / RECORD, vars(HubRecord(repo, commit, store.digest)))


def _first(error: BaseException) -> str:
    """The first line of what went wrong in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
