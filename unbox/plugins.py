"""Rooms that register themselves with a lower one when they are first needed.

`unbox/__init__.py`, above every room, fills the table; a room that keeps a registry asks for the modules of
its kind, and so never names a room above itself.
"""

from importlib import import_module

#: Kind of registry -> modules that register with it when they are imported.
PLUGINS: dict[str, tuple[str, ...]] = {}


def load_plugins(kind: str) -> None:
    """Import the modules that register with the registry `kind`; each is run once."""
    for module in PLUGINS.get(kind, ()):
        import_module(module)
