"""Two days of four businesses: what the tap writes of them, and what the models must say of it.

`tell()` lets the days pass, run after run. What the runs saw is kept as reads, and the rows are what the tap writes
into its tables, the first of them as version 1 did. The answers are computed from the reads, never from the rows.
`replay()` has the tap itself read the same days, of a real server.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any
from unittest import mock

from demo.codechat import FLAGS, Business, CodeChat, World
from tests.kit.support import CONNECTED, sync
from tools.dbt_docs import events

if TYPE_CHECKING:
    from tests.kit.support import Run

Row = dict[str, Any]
Key = tuple[Any, ...]

BUSINESSES = {"b-1": "Padaria São João", "b-2": "Clínica", "b-3": "Loja", "b-4": "Escola"}
INSTANCES = 5  # of each business
BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)
GAP = timedelta(hours=3)
STALE = timedelta(hours=24)

# Hours since the first run. Between 10 and 16 nothing ran; 27 to 30.5 and 41 to 44 are longer than the gap, too.
HOURS = (0, 1, 2, 4, 6, 8, 10, 16, 17, 19, 21.5, 23.5, 25, 27, 30.5, 32, 35, 38, 41, 44, 46)
VERSION_2_FROM = 5  # the number of a run
WITHOUT_STATE = (9, 16)
EXPIRED = {"b-3": range(11, len(HOURS)), "b-2": range(12, 15)}  # business -> the runs at which its token is refused
MOVES = {4: "b-1", 8: "b-1", 12: "b-2", 13: "b-4", 17: "b-1", 19: "b-3"}  # run -> the business that gives a number away

Hooks = dict[str, Row]  # webhook_id -> name, enabled, flags


@dataclass(frozen=True)
class Read:
    """A business as it was listed once."""

    run: int
    business_id: str
    at: datetime
    listed: dict[str, Hooks]
    without_state: bool
    known: bool  # whether the tables tell that there was this read


@dataclass
class Session:
    """A time in which an instance was connected."""

    business_id: str
    instance_id: str
    connected_at: datetime
    last_seen_at: datetime
    disconnected_at: datetime | None = None
    ended_by: str | None = None


@dataclass
class Story:
    """What was, and what was written of it."""

    reads: list[Read]
    tables: dict[str, dict[Key, Row]]
    now: datetime

    def last_reads(self) -> dict[str, Read]:
        """Return the last read of each business."""
        return {read.business_id: read for read in self.reads}

    def connected_now(self) -> dict[str, str]:
        """Return instance -> business of what is connected."""
        seen = {instance: read for read in self.reads for instance in read.listed}
        last = self.last_reads()
        return {instance: read.business_id for instance, read in seen.items() if read is last[read.business_id]}

    def live_webhooks(self) -> dict[str, Row]:
        """Return the webhooks that the server lists."""
        last = self.last_reads()
        return {
            webhook_id: {"instance_id": instance_id, "business_id": business_id, **hook}
            for instance_id, business_id in self.connected_now().items()
            for webhook_id, hook in last[business_id].listed[instance_id].items()
        }

    def stale(self) -> set[str]:
        """Return the businesses that were not read for a day."""
        return {business for business, read in self.last_reads().items() if self.now - read.at >= STALE}

    def sessions(self) -> list[Session]:
        """Return every session, by following each instance through all reads."""
        found = []
        for instance_id in sorted({instance for read in self.reads for instance in read.listed}):
            found += self._sessions(instance_id)
        return found

    def _sessions(self, instance_id: str) -> list[Session]:
        sessions: list[Session] = []
        untold: Session | None = None
        for read in self.reads:
            last = sessions[-1] if sessions else None
            lasting = last if last and last.disconnected_at is None else None
            here = lasting is not None and lasting.business_id == read.business_id
            if instance_id in read.listed:
                if lasting and here:
                    lasting.last_seen_at = read.at
                    continue
                if lasting:
                    lasting.disconnected_at, lasting.ended_by = read.at, "moved"
                untold = None
                sessions.append(Session(read.business_id, instance_id, read.at, read.at))
            elif lasting and here:
                lasting.disconnected_at = read.at
                lasting.ended_by = "not listed" if read.without_state else "disconnected"
                untold = lasting if read.without_state else None
        if untold:  # and not back since
            untold.disconnected_at = untold.last_seen_at
        return sessions

    def uptime(self) -> dict[tuple[str, date], tuple[float, float]]:
        """Return (instance, day) -> seconds connected and observed, summed over pieces in which nothing changed."""
        sessions: dict[str, list[Session]] = defaultdict(list)
        for session in self.sessions():
            sessions[session.instance_id].append(session)
        watched = self._watched()
        times = {read.at for read in self.reads}
        midnight = min(times).replace(hour=0, minute=0, second=0, microsecond=0)
        times |= {midnight + timedelta(days=number) for number in range(1, 5)}
        borders = sorted(times)
        found: dict[tuple[str, date], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for instance_id, own in sessions.items():
            for start, end in pairwise(borders):
                begun = [session for session in own if session.connected_at <= start]
                if not begun or not any(a <= start and end <= b for a, b in watched[begun[-1].business_id]):
                    continue
                until = begun[-1].disconnected_at
                seconds = found[instance_id, start.date()]
                seconds[1] += (end - start).total_seconds()
                if until is None or start < until:
                    seconds[0] += (end - start).total_seconds()
        return {key: (connected, observed) for key, (connected, observed) in found.items()}

    def _watched(self) -> dict[str, list[tuple[datetime, datetime]]]:
        watched: dict[str, list[tuple[datetime, datetime]]] = {}
        for business_id in BUSINESSES:
            known = [read.at for read in self.reads if read.business_id == business_id and read.known]
            watched[business_id] = [(start, end) for start, end in pairwise(known) if end - start <= GAP]
        return watched


@dataclass
class Numbers:
    """The businesses' numbers, connected or away, and their webhooks."""

    chance: random.Random
    connected: dict[str, dict[str, Hooks]] = field(default_factory=dict)  # business -> instance -> webhooks
    away: dict[str, dict[str, Hooks]] = field(default_factory=dict)
    webhooks: int = 0

    def begin(self) -> None:
        """Make every number, connected, but for one of each business."""
        for business_id in BUSINESSES:
            numbers = {f"{business_id}-i{number}": self._some_hooks() for number in range(INSTANCES)}
            self.away[business_id] = dict([numbers.popitem()])
            self.connected[business_id] = numbers

    def _some_hooks(self) -> Hooks:
        return dict(self._hook() for _ in range(self.chance.randrange(3)))

    def _hook(self) -> tuple[str, Row]:
        self.webhooks += 1
        flags = {event: self.chance.random() < 0.5 for event in events()}
        return f"w{self.webhooks}", {"name": f"hook {self.webhooks}", "enabled": True, "flags": flags}

    def step(self, run: int) -> None:
        """Let time pass: numbers drop and come back, or move; webhooks are made, changed and deleted."""
        for business_id, connected in self.connected.items():
            away = self.away[business_id]
            if away and self.chance.random() < 0.6:
                back = self.chance.choice(sorted(away))
                connected[back] = away.pop(back)
            if len(connected) > 1 and self.chance.random() < 0.6:
                dropped = self.chance.choice(sorted(connected))
                away[dropped] = connected.pop(dropped)
            # Of what is deleted when the state is lost nobody can tell.
            forgetful = run in WITHOUT_STATE or refused(business_id, run)
            for hooks in connected.values():
                self._change(hooks, keep=forgetful)
        if run in MOVES:
            giver = MOVES[run]
            taker = self.chance.choice([business_id for business_id in BUSINESSES if business_id not in (giver, "b-3")])
            moved = min(self.connected[giver])
            self.connected[taker][moved] = self.connected[giver].pop(moved)

    def _change(self, hooks: Hooks, *, keep: bool) -> None:
        if self.chance.random() < 0.2:
            hooks.update([self._hook()])
        for hook in hooks.values():
            if self.chance.random() < 0.1:
                hook["enabled"] = not hook["enabled"]
            if self.chance.random() < 0.1:
                hook["flags"]["new_jwt"] = not hook["flags"]["new_jwt"]
        if hooks and not keep and self.chance.random() < 0.1:
            del hooks[min(hooks)]


def refused(business_id: str, run: int) -> bool:
    """Tell whether a business's token has expired at a run."""
    return run in EXPIRED.get(business_id, ())


@dataclass
class Writer:
    """The rows that the tap writes, given what it remembers."""

    tables: dict[str, dict[Key, Row]] = field(default_factory=lambda: defaultdict(dict))
    seen: dict[str, set[str]] = field(default_factory=dict)  # business -> instances
    last: dict[str, datetime] = field(default_factory=dict)
    hooks: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # instance -> webhooks
    observed: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """Lose the state."""
        self.seen.clear()
        self.last.clear()
        self.hooks.clear()
        self.observed.clear()

    def write(self, business_id: str, at: datetime, listed: dict[str, Hooks], version: int) -> bool:
        """Write the rows of one read; tell whether there was a change among them."""
        self._put("businesses", business_id, {"name": BUSINESSES[business_id], "observed_at": at})
        for instance_id, hooks in listed.items():
            self._put("instances", instance_id, {"business_id": business_id, "name": instance_id, "observed_at": at})
            for webhook_id in sorted(self.hooks[instance_id] - hooks.keys()):
                gone = {"instance_id": instance_id, "deleted_at": at}
                self._put("webhooks", webhook_id, gone)
                self._put("webhook_events", webhook_id, gone)
            for webhook_id, hook in hooks.items():
                row = {"instance_id": instance_id, "name": hook["name"], "enabled": hook["enabled"]}
                self._put("webhooks", webhook_id, row)
                self._put("webhook_events", webhook_id, {"instance_id": instance_id, **hook["flags"]})
            self.hooks[instance_id] = set(hooks)
        before = self.seen.get(business_id, set())
        changes = [(instance, "connected") for instance in sorted(listed.keys() - before)]
        changes += [(instance, "disconnected") for instance in sorted(before - listed.keys())]
        for instance_id, change in changes:
            previous = self.last.get(business_id, BEGINNING if version == 1 else at)
            row = {"business_id": business_id, "instance_id": instance_id, "observed_at": at}
            row |= {"previous_observed_at": previous, "change" if version == 1 else "change_type": change}
            key = (business_id, instance_id, previous) if version == 1 else (business_id, instance_id, previous, change)
            self.tables["connection_changes"][key] = row
        if version > 1:
            before_this = self.last.get(business_id) if business_id in self.observed else None
            counts = {"instances": len(listed), "webhooks": sum(map(len, listed.values()))}
            row = {"business_id": business_id, "observed_at": at, "previous_observed_at": before_this, **counts}
            self.tables["observations"][business_id, at] = row
            self.observed.add(business_id)
        self.seen[business_id], self.last[business_id] = set(listed), at
        return bool(changes)

    def _put(self, table: str, key: str, row: Row) -> None:
        name = {"businesses": "business_id", "instances": "instance_id"}.get(table, "webhook_id")
        self.tables[table][(key,)] = {name: key, **row}


def tell(runs: int = len(HOURS), seed: int = 7, version_2_from: int = VERSION_2_FROM) -> Story:
    """Let the first `runs` runs happen, so that the last of all would be some minutes ago."""
    # A whole hour, so that midnight falls within the story wherever it begins.
    now = datetime.now(timezone.utc)
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS[-1])
    world, writer, reads = Numbers(random.Random(seed)), Writer(), list[Read]()  # noqa: S311 - a made-up world
    world.begin()
    for run, hours in enumerate(HOURS[:runs]):
        if run:
            world.step(run)
        version = 1 if run < version_2_from else 2
        if run in WITHOUT_STATE:
            writer.forget()
        for number, business_id in enumerate(BUSINESSES):
            if refused(business_id, run):
                continue
            at = start + timedelta(hours=hours, seconds=number, microseconds=run * 1001 + number)
            listed = deepcopy(world.connected[business_id])
            without_state = business_id not in writer.last
            changed = writer.write(business_id, at, listed, version)
            if changed and not without_state:
                _learn_of_the_read_before(reads, business_id)
            reads.append(Read(run, business_id, at, listed, without_state, known=changed or version > 1))
    return Story(reads, {name: dict(rows) for name, rows in writer.tables.items()}, now)


def _learn_of_the_read_before(reads: list[Read], business_id: str) -> None:
    """A change tells when the business was read before it."""
    number = max(number for number, read in enumerate(reads) if read.business_id == business_id)
    reads[number] = replace(reads[number], known=True)


def replay(story: Story) -> tuple[Story, str]:
    """Let the tap read a story's days; return the story with the times at which it did, and all that it wrote."""
    businesses = {each: Business(each, f"not-a-real-token-{each}", {}) for each in BUSINESSES}
    runs: list[Run] = []
    reads: list[Read] = []
    with CodeChat(World([*businesses.values()])) as server, mock.patch("tap_instances.responses.datetime") as clock:
        for run in sorted({read.run for read in story.reads}):
            now = {read.business_id: read for read in story.reads if read.run == run}
            ticks = count()
            start = min(read.at for read in now.values())
            clock.now.side_effect = lambda _zone, start=start, ticks=ticks: start + timedelta(seconds=next(ticks))
            for business_id, read in now.items():
                businesses[business_id].body = body_of(read)
            tokens = {each: business.token if each in now else "expired" for each, business in businesses.items()}
            settings = {
                "api_url": server.url,
                "businesses": [{"business_id": each, "auth_token": token} for each, token in tokens.items()],
                "concurrency": 1,
            }
            state = None if run in WITHOUT_STATE or not runs else runs[-1].state
            runs.append(sync(settings, state=state))
            observed = {row["business_id"]: row["observed_at"] for row in runs[-1].records("businesses")}
            assert observed.keys() == now.keys(), runs[-1].stderr
            reads += [
                replace(read, at=datetime.fromisoformat(observed[each][:-1] + "+00:00")) for each, read in now.items()
            ]
    return Story(reads, {}, story.now), "".join(run.stdout for run in runs)


def body_of(read: Read) -> Row:
    """Return what the server answers when a business is read."""
    template = json.loads(CONNECTED.read_text(encoding="utf-8"))
    instances = []
    for instance_id, hooks in read.listed.items():
        instance = deepcopy(template["Instances"][0])
        instance.update(instanceId=instance_id, name=instance_id, Webhook=[])
        for webhook_id, hook in hooks.items():
            listed = deepcopy(template["Instances"][0]["Webhook"][0])
            listed.update(webhookId=webhook_id, name=hook["name"], enabled=hook["enabled"])
            listed.update(instanceInstanceId=instance_id)
            listed["WebhookEvents"].update(dict(zip(FLAGS, hook["flags"].values(), strict=True)))
            instance["Webhook"].append(listed)
        instances.append(instance)
    return {"businessId": read.business_id, "name": BUSINESSES[read.business_id], "Instances": instances}
