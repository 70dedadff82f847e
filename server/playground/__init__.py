"""The page at ``/``: written in ``source``, built by ``make page`` into ``static``, which is what is served and shipped."""

from server.playground.assets import Asset, read_assets

__all__ = ["Asset", "read_assets"]
