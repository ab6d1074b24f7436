"""Activation store: block updates on disk, in immutable HDF5 shards. Knows numpy and h5py, and no model."""

from activation_store.batches import Batches, Pool
from activation_store.errors import StoreError, UnstorableError
from activation_store.files import digest, publish_file, publish_folder, read_json, write_json
from activation_store.joined_rows import AlignedRows, JoinedRows, join_stores
from activation_store.merge import merge, subset
from activation_store.mirror import mirror
from activation_store.moments import Moments
from activation_store.number_formats import why_unstorable
from activation_store.rows import Rows
from activation_store.samples import Sample
from activation_store.schema import Schema, SiteLayout
from activation_store.shard_cache import ShardCache
from activation_store.store import Store
from activation_store.upgrade import upgrade
from activation_store.verify import Report, repair, verify
from activation_store.writer import Writer
