"""The overrides of ``Stream``."""

from __future__ import annotations

import logging
from typing import Any, Final, NoReturn

from singer_sdk import Stream
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.singerlib import Catalog, Metadata, Schema
from typing_extensions import override

from tap_instances.columns import column_names, load_schema

FULL_TABLE: Final = "FULL_TABLE"

logger = logging.getLogger("tap-instances")


class SDKStream(Stream):
    """A stream whose rows come from a business's snapshot.

    Subclasses set ``name``, ``primary_keys`` and ``parent_stream_type``.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.ROOT_ONLY  # rows are flat, and fit already
    can_be_full_table = False  # whether a catalog may ask an incremental stream for FULL_TABLE

    @property
    @override
    def schema(self) -> dict[str, Any]:
        """The declared columns; those that are secrets only with ``include_secrets``."""
        schema = load_schema(self.name)
        names = column_names(self.name, include_secrets=bool(self.config.get("include_secrets")))
        return {**schema, "properties": {name: schema["properties"][name] for name in names}}

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        """Take selection, FULL_TABLE and key columns from the catalog; no secret column, no replication key."""
        if entry := catalog.get_stream(self.name):
            metadata, columns = entry.metadata.root, self.schema["properties"]
            keys = entry.key_properties or metadata.table_key_properties or self.primary_keys
            if not set(keys) <= columns.keys():
                logger.warning("the catalog's keys of %s are not columns of it: they are ignored", self.name)
                keys = self.primary_keys
            # The SDK lets the stream's method, which discovery wrote, beat the one that a user set in metadata.
            methods = {entry.replication_method, metadata.forced_replication_method} - {None}
            method, key = self.replication_method, self.replication_key
            if FULL_TABLE in methods and self.can_be_full_table:
                method = FULL_TABLE
            elif methods - {method} or (entry.replication_key or metadata.replication_key or key) != key:
                own = "INCREMENTAL or FULL_TABLE" if self.can_be_full_table else f"always {method}"
                logger.warning("%s is %s: another replication method or key is ignored", self.name, own)
            given = entry.schema.properties or {}
            chosen = [name for name in columns if name in given or name in keys]
            entry.schema.properties = {name: given.get(name) or Schema.from_dict(columns[name]) for name in chosen}
            for name in keys:  # a row without its key would be of no use
                entry.metadata["properties", name].inclusion = Metadata.InclusionType.AUTOMATIC
            entry.key_properties, entry.replication_method = keys, method
            entry.replication_key = metadata.replication_key = key
        super().apply_catalog(catalog)

    @override
    def get_records(self, context: Any) -> NoReturn:
        """Never asked for: a run writes all streams from one snapshot."""
        raise NotImplementedError

    @override  # type: ignore[misc]  # the SDK declares it final
    def sync(self, context: Any = None) -> None:
        # --test calls this, for the root. The SDK's way syncs children once per parent record, with a SCHEMA each.
        self._tap.sync_all()
