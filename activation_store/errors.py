"""The one error of the store."""


class StoreError(ValueError):
    """A store (or a file of one) cannot be used as asked. Names what was asked, what exists, what to do."""
