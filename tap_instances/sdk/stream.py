"""The overrides of ``Stream``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from singer_sdk import Stream
from singer_sdk.helpers.conform import TypeConformanceLevel
from typing_extensions import override

from tap_instances.columns import column_names, load_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from singer_sdk.singerlib import Catalog

FULL_TABLE: Final = "FULL_TABLE"


class SDKStream(Stream):
    """A stream whose rows come from a business's snapshot.

    Subclasses set ``name``, ``primary_keys``, ``parent_stream_type``, and say which rows a page holds.
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
        entry = catalog.get_stream(self.name)
        keys, replication_key = tuple(self.primary_keys), self.replication_key
        if entry:
            allowed = self.schema["properties"]
            secrets = set(load_schema(self.name)["properties"]) - set(allowed)
            for column in secrets:
                (entry.schema.properties or {}).pop(column, None)
            given: Any = entry.key_properties or entry.metadata.root.table_key_properties or keys
            if isinstance(given, str) or not set(given) <= allowed.keys():
                self.logger.warning("the catalog's keys of %s are not columns of it: they are ignored", self.name)
                given = keys
            entry.key_properties = given
        super().apply_catalog(catalog)
        self.primary_keys = self.primary_keys or keys
        given, self.replication_key = self.replication_key or replication_key, replication_key
        self.forced_replication_method = None
        if entry:
            # The SDK lets the stream's method, which discovery wrote, beat the one that a user set in metadata.
            methods = {entry.replication_method, entry.metadata.root.forced_replication_method} - {None}
            if FULL_TABLE in methods and self.can_be_full_table:
                self.forced_replication_method = FULL_TABLE
            elif methods - {self.replication_method} or given != replication_key:
                self.logger.warning("%s is always %s: another replication method or key is ignored", self.name,
                                    self.replication_method)  # fmt: skip

    @override
    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Never asked for: a run writes all streams from one snapshot."""
        raise NotImplementedError

    @override  # type: ignore[misc]  # the SDK declares it final
    def sync(self, context: Any = None) -> None:
        # --test calls this, for the root. The SDK's way syncs children once per parent record, with a SCHEMA each.
        self._tap.sync_all()
