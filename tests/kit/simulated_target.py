"""A target in memory: upserts by key, honours ACTIVATE_VERSION, keeps the last STATE, and dies where it is told to."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Message = dict[str, Any]
Row = dict[str, Any]
Key = tuple[Any, ...]

VERSION, REMOVED = "_sdc_table_version", "_sdc_deleted_at"


class SimulatedTarget:
    """Tables, and the STATE that the next run starts from."""

    def __init__(self, *, hard_delete: bool = False) -> None:
        """Start empty; what ACTIVATE_VERSION leaves out is marked, or with `hard_delete` removed."""
        self.hard_delete = hard_delete
        self.state: dict[str, Any] | None = None
        self.tables: dict[str, dict[Key, Row]] = {}
        self._keys: dict[str, list[str]] = {}

    def load(self, messages: Sequence[Message], cuts: Mapping[str, int] | None = None) -> None:
        """Load messages in their order; of a stream that `cuts` names, only those before that position.

        That is how real targets die: each stream's rows are loaded by themselves, and a STATE counts when all that
        stands before it is loaded. So no cut may stand before the last STATE.
        """
        for position, message in enumerate(messages):
            stream = message.get("stream")
            if stream is None or position < (cuts or {}).get(stream, len(messages)):
                self._load(message)

    def _load(self, message: Message) -> None:
        kind, stream = message["type"], message.get("stream", "")
        if kind == "SCHEMA":
            self._keys[stream] = message["key_properties"]
            self.tables.setdefault(stream, {})
        elif kind == "RECORD":
            row = {**message["record"], VERSION: message.get("version"), REMOVED: None}
            self.tables[stream][tuple(row[name] for name in self._keys[stream])] = row
        elif kind == "ACTIVATE_VERSION":
            self._activate(self.tables[stream], message["version"])
        elif kind == "STATE":
            self.state = message["value"]

    def _activate(self, table: dict[Key, Row], version: int) -> None:
        for key in [key for key, row in table.items() if row[VERSION] is None or row[VERSION] < version]:
            if self.hard_delete:
                del table[key]
            else:
                table[key][REMOVED] = table[key][REMOVED] or f"version {version}"

    def rows(self, stream: str) -> list[Row]:
        """Give the rows of a table that are not marked as deleted by ACTIVATE_VERSION."""
        return [row for row in self.tables.get(stream, {}).values() if not row[REMOVED]]

    def connected(self) -> set[tuple[str, str]]:
        """Give (business, instance) of what is connected now, as the documentation's query says."""
        observed = {row["business_id"]: row["observed_at"] for row in self.rows("businesses")}
        rows = self.rows("instances")
        return {(r["business_id"], r["instance_id"]) for r in rows if r["observed_at"] == observed[r["business_id"]]}

    def live(self, stream: str) -> dict[str, Row]:
        """Give the rows of webhooks or webhook_events that are not deleted, by their key."""
        return {row["webhook_id"]: row for row in self.rows(stream) if row["deleted_at"] is None}

    def last_changes(self) -> dict[tuple[str, str], Row]:
        """Give (business, instance) -> its last connection change."""
        rows = sorted(self.rows("connection_changes"), key=lambda row: str(row["observed_at"]))
        return {(row["business_id"], row["instance_id"]): row for row in rows}

    def contents(self) -> dict[str, list[str]]:
        """Give each table's rows in an order of their own, without what differs from run to run: when it was."""
        times = {"observed_at", "previous_observed_at", VERSION}
        return {
            stream: sorted(
                repr({name: bool(value) if name in {REMOVED, "deleted_at"} else value
                      for name, value in row.items() if name not in times})
                for row in table.values()
            )
            for stream, table in self.tables.items()
        }  # fmt: skip


class BatchingTarget(SimulatedTarget):
    """Loads a stream's rows when `size` of them wait, and then keeps the last STATE for this stream alone.

    For other streams it keeps what the first STATE of the run says. So do the loaders of pipelinewise, and those made
    from them.
    """

    def __init__(self, size: int) -> None:
        """Start empty."""
        super().__init__()
        self.size = size

    @override
    def load(self, messages: Sequence[Message], cuts: Mapping[str, int] | None = None, *, whole: bool = True) -> None:
        """Load messages in their order; the rows that wait at the end only if the run was read `whole`."""
        waiting: dict[str, list[Message]] = {}
        last: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        for message in messages:
            if message["type"] == "STATE":
                last = message["value"]
                kept = kept or deepcopy(last)
            elif message["type"] == "RECORD":
                rows = waiting.setdefault(message["stream"], [])
                rows.append(message)
                if len(rows) >= self.size:
                    super().load(waiting.pop(message["stream"]))
                    if bookmark := last.get("bookmarks", {}).get(message["stream"]):
                        kept["bookmarks"][message["stream"]] = bookmark
                    self.state = deepcopy(kept) or self.state
            else:
                super().load([message])
        if whole:
            super().load([row for rows in waiting.values() for row in rows])
            self.state = last
