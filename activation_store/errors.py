"""The errors of the store."""


class StoreError(ValueError):
    """A store (or a file of one) cannot be used as asked. Names what was asked, what exists, what to do."""


class UnstorableError(StoreError):
    """Numbers that the store's format cannot hold: NaN, infinity, or over its largest."""
