#!/usr/bin/env python3
"""Tell people which WhatsApp numbers dropped. A scheduler runs it after each load.

It reads the tables `connection_changes`, `instances` and `businesses` in DuckDB or PostgreSQL, sends one message about
the drops that it has not told yet, and remembers them in a file. README.md, beside this file, has the settings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import smtplib
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from email.utils import formatdate
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

# Drops older than this, counted from the last run of this script, are not looked at. Wide enough for clocks that
# differ and for loads that come late; narrow enough to keep the file small.
WINDOW = timedelta(days=7)
TIMEOUT = 30
LONGEST_NAME = 80

# A later `connected` row, in whichever business, says that the number is back.
DROPS = """
    select d.business_id, d.instance_id, b.name, i.name,
           cast(d.previous_observed_at as timestamp), cast(d.observed_at as timestamp), c.connected_at
    from {tables}connection_changes d
    left join {tables}businesses b on b.business_id = d.business_id
    left join {tables}instances i on i.instance_id = d.instance_id
    left join (
      select instance_id, max(cast(observed_at as timestamp)) as connected_at
      from {tables}connection_changes
      where change_type = 'connected'
      group by instance_id
    ) c on c.instance_id = d.instance_id
    where d.change_type = 'disconnected' and cast(d.observed_at as timestamp) >= timestamp '{since}'
    order by 5, 6, 1, 2
"""
BUSINESSES = "select business_id, name, cast(observed_at as timestamp) from {tables}businesses order by 3, 1"


class AlertError(Exception):
    """What went wrong, as one line that says what to do; it holds no secret."""


class Drop(NamedTuple):
    """A number that was listed at `last_seen` and no longer at `gone_since`. Times are UTC without a zone."""

    business_id: str
    instance_id: str
    business: str | None
    name: str | None
    last_seen: datetime
    gone_since: datetime
    connected_at: datetime | None

    def key(self) -> tuple[str, ...]:
        """Return what makes it one drop, also when a load that failed is repeated with a later `gone_since`."""
        return self.business_id, self.instance_id, self.last_seen.isoformat()

    def is_back(self) -> bool:
        """Return whether the number was seen again after this drop."""
        return self.connected_at is not None and self.connected_at > self.last_seen


class Business(NamedTuple):
    """A business and when it was last read. The time is UTC without a zone."""

    business_id: str
    name: str | None
    last_read: datetime


def main() -> int:
    """Send what is new; return 1 and print one line if something failed: the next run sends it then."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("database", nargs="?", help="a DuckDB file or postgresql://…; default: $ALERTS_DATABASE")
    parser.add_argument("--schema", help="schema of the tables (default: main in DuckDB, the user's in PostgreSQL)")
    parser.add_argument("--state", type=Path, default="alerts.json", help="what was told (default: alerts.json)")
    parser.add_argument("--to", choices=("stdout", "webhook", "email"), default="stdout")
    parser.add_argument("--stale-hours", type=float, default=24, help="tell businesses not read for so long (24)")
    parser.add_argument("--lines", type=int, default=20, help="at most so many lines of each kind (20)")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except AlertError as problem:
        print(f"alerts: {problem}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Read the tables, send one message if there is something new, and remember it."""
    send = {"stdout": print_message, "webhook": post, "email": mail}[arguments.to]
    state = read_state(arguments.state)
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    since = (min(now, state["last_run"]) if state else now) - WINDOW
    database = arguments.database or os.environ.get("ALERTS_DATABASE")
    if not database:
        raise AlertError("no database: give a DuckDB file or a postgresql:// URL, or set ALERTS_DATABASE")
    drops, businesses = read_tables(database, arguments.schema, since)
    stale = [b for b in businesses if (now - b.last_read) / timedelta(hours=1) >= arguments.stale_hours]

    # Written before the message is sent: a full disk must not make it be sent at every run.
    draft = write_draft(
        arguments.state,
        {
            "last_run": now.isoformat(),
            "drops": [drop.key() for drop in drops],
            "stale": {business.business_id: business.last_read.isoformat() for business in stale},
        },
    )
    try:
        if state is None:
            told = f"{count(len(drops), 'earlier drop')} and {count(len(stale), 'business', 'businesses')} not read"
            print(f"alerts: first run: {told} are taken as known, nothing was sent", file=sys.stderr)
        else:
            new = [drop for drop in drops if drop.key() not in state["drops"]]
            times = Counter(drop.instance_id for drop in new)
            # The last drop of each number. Where that is known, a new one is of a business that the number had left.
            last = {drop.instance_id: drop for drop in drops}.values()
            numbers = {drop: times[drop.instance_id] for drop in last if drop.key() not in state["drops"]}
            stale = [b for b in stale if state["stale"].get(b.business_id) != b.last_read.isoformat()]
            if numbers or stale:
                send(*compose(numbers, stale, arguments.stale_hours, arguments.lines))
        draft.replace(arguments.state)
    finally:
        draft.unlink(missing_ok=True)


def read_tables(database: str, schema: str | None, since: datetime) -> tuple[list[Drop], list[Business]]:
    """Return the drops since a time, in the order of `last_seen`, and every business."""
    is_url = "://" in database
    if not is_url and not Path(database).is_file():
        raise AlertError("the database is neither a DuckDB file that exists nor a postgresql:// URL")
    name = "psycopg" if is_url else "duckdb"
    try:
        driver = import_module(name)
    except ImportError:
        raise AlertError(f"{name} is missing: pip install {'psycopg[binary]' if is_url else name}") from None
    tables = '"' + schema.replace('"', '""') + '".' if schema else ""
    try:
        if is_url:
            connection = driver.connect(database, connect_timeout=TIMEOUT)
        else:
            # Attached under a fixed name: a file called main.duckdb would hide the schema main.
            connection, path = driver.connect(), database.replace("'", "''")
            connection.execute(f"attach '{path}' as warehouse (read_only)")
            tables = f"warehouse.{tables or 'main.'}"
        with connection:
            connection.execute("set time zone 'UTC'")
            drops = connection.execute(DROPS.format(tables=tables, since=since.isoformat(" "))).fetchall()
            businesses = connection.execute(BUSINESSES.format(tables=tables)).fetchall()
    except driver.Error as problem:
        text = one_line(str(problem).partition("LINE ")[0])
        raise AlertError(f"the tables could not be read: {without_password(text, database)}") from None
    return [Drop(*row) for row in drops], [Business(*row) for row in businesses if row[2]]


def without_password(text: str, url: str) -> str:
    """Return a text without the parts of a URL's password: libpq quotes a part where the URL is not well formed."""
    password = url.rpartition("@")[0].partition("://")[2].partition(":")[2]
    for part in filter(None, re.split(r"[@/:?#\s]", password)):
        text = text.replace(part, "***")
    return text


def compose(numbers: dict[Drop, int], stale: list[Business], hours: float, most: int) -> tuple[str, str]:
    """Return a message's title and its lines: a number's last drop, with how often it dropped, is one line."""
    titles, lines = [], []
    if numbers:
        back = sum(map(Drop.is_back, numbers))
        titles.append(f"{count(len(numbers), 'number')} dropped" + (f", {back} back since" if back else ""))
        shown = []
        for drop in sorted(numbers, key=Drop.is_back):
            text = f"- {named(drop.name, drop.instance_id)} ({named(drop.business, drop.business_id)})"
            text += f": last seen {utc(drop.last_seen)}, gone since {utc(drop.gone_since)}"
            if numbers[drop] > 1:
                text += f", dropped {numbers[drop]} times"
            if drop.is_back() and drop.connected_at:
                text += f", back since {utc(drop.connected_at)}"
            shown.append(text)
        lines += [f"{titles[-1]}:", *at_most(most, shown)]
    if stale:
        titles.append(f"{count(len(stale), 'business', 'businesses')} not read for {hours:g} hours")
        shown = [f"- {named(b.name, b.business_id)}: last read {utc(b.last_read)}" for b in stale]
        lines += [f"{titles[-1]} (see the tap's log):", *at_most(most, shown)]
    return "; ".join(titles), "\n".join(lines)


def at_most(most: int, lines: list[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]


def count(number: int, word: str, plural: str | None = None) -> str:
    """Return a number with its word."""
    return f"{number} {word if number == 1 else plural or word + 's'}"


def utc(time: datetime) -> str:
    """Return a time for people."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


def named(name: str | None, row_id: str) -> str:
    """Return a name, or the id where there is none, as one line of limited length."""
    text = one_line(name or "") or one_line(row_id)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def one_line(text: str) -> str:
    """Return a text without line breaks and characters that cannot be seen."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def print_message(_title: str, lines: str) -> None:
    """Print a message."""
    try:
        print(lines, flush=True)
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit would write it again, and fail
        raise AlertError(f"standard output: {problem}") from None


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirect with a GET: nothing would arrive, and nobody would know."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401
        """Return no further request, so that the redirect is an error."""


def post(_title: str, lines: str) -> None:
    """Post a message to the Slack-compatible URL in ALERTS_WEBHOOK_URL. The URL is a secret."""
    # A name must not become a mention of everybody: Slack's are in < >, Mattermost's begin with @.
    for character, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("@", "@\u200b")):
        lines = lines.replace(character, harmless)
    url = setting("ALERTS_WEBHOOK_URL")
    if not url.startswith(("https://", "http://")):
        raise AlertError("ALERTS_WEBHOOK_URL is not an http(s) URL")
    try:
        request = urllib.request.Request(  # noqa: S310 - checked above
            url, json.dumps({"text": lines}).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as problem:
        raise AlertError(f"the webhook answered {problem.code} {one_line(problem.reason)}") from None
    except urllib.error.URLError as problem:
        raise AlertError(f"the webhook cannot be reached: {one_line(str(problem.reason))}") from None
    except OSError as problem:
        raise AlertError(f"the webhook did not answer: {one_line(str(problem))}") from None
    except (HTTPException, ValueError) as problem:  # their texts may quote the URL
        raise AlertError(f"ALERTS_WEBHOOK_URL: {type(problem).__name__}: is it the right URL?") from None


def mail(title: str, lines: str) -> None:
    """Mail a message by the settings ALERTS_SMTP_… and ALERTS_MAIL_… of the environment."""
    host, security = setting("ALERTS_SMTP_HOST"), os.environ.get("ALERTS_SMTP_SECURITY") or "starttls"
    if security not in {"starttls", "tls", "none"}:
        raise AlertError("ALERTS_SMTP_SECURITY is starttls, tls or none")
    user, password = os.environ.get("ALERTS_SMTP_USER"), os.environ.get("ALERTS_SMTP_PASSWORD", "")
    try:
        port = int(os.environ.get("ALERTS_SMTP_PORT") or {"starttls": 587, "tls": 465, "none": 25}[security])
        message = EmailMessage()
        message["From"], message["To"] = setting("ALERTS_MAIL_FROM"), setting("ALERTS_MAIL_TO")
        message["Subject"], message["Date"] = f"CodeChat: {title}", formatdate()
        message.set_content(lines + "\n")
        context = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=context)
            if security == "tls"
            else smtplib.SMTP(host, port, timeout=TIMEOUT)
        ) as server:
            if security == "starttls":
                server.starttls(context=context)
            if user:
                server.login(user, password)
            refused = server.send_message(message)
    except smtplib.SMTPAuthenticationError as problem:
        raise AlertError(f"the mail server refused the user or the password ({problem.smtp_code})") from None
    except OSError as problem:  # smtplib's own are such, too
        text = one_line(str(problem))
        raise AlertError(f"the mail was not sent: {text.replace(password, '***') if password else text}") from None
    except ValueError as problem:  # its text may quote a setting
        raise AlertError(f"a setting of the mail is wrong: {type(problem).__name__}") from None
    if refused:
        print(f"alerts: the mail server refused {', '.join(refused)}", file=sys.stderr)


def setting(name: str) -> str:
    """Return a setting from the environment."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise AlertError(f"{name} is not set")
    return value


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what was told, or `None` at the first run. A file that is damaged is no first run: drops would be lost."""
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            "last_run": datetime.fromisoformat(state["last_run"]).replace(tzinfo=None),
            "drops": {tuple(key) for key in state["drops"]},
            "stale": dict(state["stale"]),
        }
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise AlertError(f"the state file {path} cannot be read: {problem.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise AlertError(f"the state file {path} is damaged: remove it, drops until then are not told") from None


def write_draft(path: Path, state: dict[str, Any]) -> Path:
    """Write the next state beside the file that it is to replace."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f"{path.name}.", delete=False
        ) as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise AlertError(f"the state file {path} cannot be written: {problem.strerror}") from None
    return Path(file.name)


if __name__ == "__main__":
    sys.exit(main())
