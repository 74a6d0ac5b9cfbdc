"""A page on the dbt models: what is connected, what dropped, uptime, who gets which event.

`streamlit run app.py` starts it. Two variables of the environment say where the models are: DASHBOARD_DATABASE (a
DuckDB file or postgresql://…) and DASHBOARD_SCHEMA. Names come from outside: they are shown in tables, charts and lists
only, where nothing in them is taken for Markdown.
"""

from __future__ import annotations

import os
from datetime import date, datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path

import altair as alt
import pandas as pd
import streamlit as st

LONGEST = 30  # days that can be shown
MOST_NUMBERS = 40  # rows of the heat map
MOST_LABELS = 14  # days whose cells are wide enough for a number, also on a phone

# From yellow to dark violet: told apart with every kind of colour blindness, and nowhere grey.
SCHEME = "viridis"
UNKNOWN = "#d9d9d9"

QUERIES = {
    "businesses": """
        select b.business_id, coalesce(b.name, b.business_id) as business, b.observed_at,
               s.business_id is not null as stale
        from {schema}stg_codechat__businesses b
        left join {schema}codechat__stale_businesses s on s.business_id = b.business_id
    """,
    "connected": """
        select c.business_id, coalesce(c.business_name, c.business_id) as business, c.instance_id,
               coalesce(c.instance_name, c.instance_id) as number, c.whatsapp_remote_jid as jid,
               s.connected_at, c.observed_at
        from {schema}codechat__connected_now c
        left join {schema}codechat__sessions s on s.instance_id = c.instance_id and s.disconnected_at is null
        order by 2, 4, 3
    """,
    "drops": """
        select d.business_id, coalesce(b.name, d.business_id) as business, d.instance_id,
               coalesce(i.name, d.instance_id) as number, d.connected_at, d.disconnected_at, d.back_at
        from (
          select business_id, instance_id, connected_at, disconnected_at, ended_by,
                 lead(connected_at) over (partition by instance_id order by connected_at) as back_at
          from {schema}codechat__sessions
        ) d
        left join {schema}stg_codechat__businesses b on b.business_id = d.business_id
        left join {schema}stg_codechat__instances i on i.instance_id = d.instance_id
        where d.disconnected_at >= timestamp '{since}' and d.ended_by <> 'moved'
        order by 6 desc, 3
    """,
    "uptime": """
        select i.business_id, coalesce(b.name, i.business_id, '') as business,
               u.instance_id, coalesce(i.name, u.instance_id) as number,
               u.day, u.seconds_connected, u.seconds_observed
        from {schema}codechat__daily_uptime u
        left join {schema}stg_codechat__instances i on i.instance_id = u.instance_id
        left join {schema}stg_codechat__businesses b on b.business_id = i.business_id
        where u.day >= date '{since:.10}'
    """,
    "webhooks": """
        select w.business_id, coalesce(w.business_name, w.business_id) as business,
               coalesce(w.instance_name, w.instance_id) as number,
               w.webhook_id, coalesce(w.name, w.webhook_id) as webhook, w.url, w.enabled
        from {schema}codechat__live_webhooks w
        order by 2, 3, 5, 4
    """,
    "events": """
        select webhook_id, event
        from {schema}codechat__event_subscriptions
        where enabled
        order by 1, 2
    """,
}


class Unreadable(Exception):  # noqa: N818 - reads as what it says
    """The models could not be read; says what to do."""


@st.cache_data(ttl=60, show_spinner="Reading the models…")
def read(database: str, schema: str, today: date) -> dict[str, pd.DataFrame]:
    """Return a frame for each query. The database is closed at once: a loader must be able to write to it."""
    is_url = "://" in database
    if not is_url and not Path(database).is_file():
        raise Unreadable("DASHBOARD_DATABASE is neither a DuckDB file that exists nor a postgresql:// URL.")
    driver = import_module("psycopg" if is_url else "duckdb")
    prefix = '"' + schema.replace('"', '""') + '".' if schema else ""
    since = (today - timedelta(days=LONGEST)).isoformat()
    frames = {}
    try:
        if is_url:
            connection = driver.connect(database, connect_timeout=10)
        else:
            connection = driver.connect(database, read_only=True)
        with connection:
            connection.execute("set time zone 'UTC'")
            for name, sql in QUERIES.items():
                result = connection.execute(sql.format(schema=prefix, since=since))
                columns = [column[0] for column in result.description]
                frames[name] = pd.DataFrame(result.fetchall(), columns=columns)
    except driver.Error as problem:
        # For whoever runs this page. What libpq says of a connection may quote a part of the URL.
        secret = is_url and isinstance(problem, driver.OperationalError)
        print(f"dashboard: {type(problem).__name__}" + ("" if secret else f": {problem}"))
        raise Unreadable(
            "The models cannot be read. Was `dbt build` run, and is DASHBOARD_SCHEMA its schema? "
            "While a loader writes to a DuckDB file, nobody can read it: try again in a minute."
        ) from None
    return frames


def main() -> None:
    """Draw the page."""
    # No page_icon: Streamlit would fetch it from the internet.
    st.set_page_config(page_title="CodeChat numbers", layout="wide")
    st.title("CodeChat numbers")
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    try:
        frames = read(os.environ.get("DASHBOARD_DATABASE", ""), os.environ.get("DASHBOARD_SCHEMA", ""), now.date())
    except Unreadable as problem:
        st.error(str(problem))
        return
    businesses = frames["businesses"]
    if businesses.empty:
        st.info("Nothing is loaded yet: run the tap, then `dbt build`.")
        return
    names = businesses.sort_values("business").set_index("business_id")["business"].to_dict()
    same = businesses["business"].duplicated(keep=False).set_axis(businesses["business_id"])
    chosen = st.selectbox(
        "Business",
        [None, *names],
        format_func=lambda key: (f"{names[key]} ({key})" if same[key] else names[key]) if key else "All businesses",
    )
    days = st.radio("Days", [7, 14, LONGEST], horizontal=True)
    since = pd.Timestamp(now.date() - timedelta(days=days - 1))
    if chosen:
        frames = {
            name: frame[frame["business_id"] == chosen] if "business_id" in frame else frame
            for name, frame in frames.items()
        }
    drops = frames["drops"][frames["drops"]["disconnected_at"] >= since]
    uptime = frames["uptime"].assign(day=pd.to_datetime(frames["uptime"]["day"]))
    uptime = uptime[uptime["day"] >= since]

    show_freshness(frames["businesses"], now)
    show_totals(frames["connected"], drops, uptime, frames["webhooks"], days)
    show_drops(drops, days)
    show_uptime(uptime, since, days)
    show_connected(frames["connected"])
    show_webhooks(frames["webhooks"], frames["events"])


def show_freshness(businesses: pd.DataFrame, now: datetime) -> None:
    """Say how old all of this is, and which businesses are not read any more."""
    last = businesses["observed_at"].max()
    st.caption(f"Last read {last:%Y-%m-%d %H:%M} UTC, {ago(now - last)}. All times are UTC.")
    stale = businesses[businesses["stale"].astype(bool)].sort_values("observed_at")
    if not stale.empty:
        st.warning(
            f"Not read for long: {len(stale)} of {len(businesses)} businesses. What is shown of them is old; "
            "check their tokens and the tap's log.",
            icon=":material/warning:",
        )
        table = pd.DataFrame({"Business": stale["business"], "Last read": minutes(stale["observed_at"])})
        show_table(table)


def show_totals(
    connected: pd.DataFrame, drops: pd.DataFrame, uptime: pd.DataFrame, webhooks: pd.DataFrame, days: int
) -> None:
    """Show the page in four numbers."""
    observed = uptime["seconds_observed"].sum()
    down = drops[drops["back_at"].isna()]["instance_id"].nunique()
    with st.container(horizontal=True):
        st.metric("Connected now", len(connected), border=True)
        st.metric("Down now", down, border=True, help=f"Dropped in the last {days} days and not seen since.")
        st.metric(
            f"Uptime, {days} days",
            f"{percent(uptime['seconds_connected'].sum(), observed)} %" if observed else "not known",
            border=True,
        )
        st.metric("Webhooks on", int(webhooks["enabled"].fillna(value=False).astype(bool).sum()), border=True)


def show_drops(drops: pd.DataFrame, days: int) -> None:
    """List the drops, the newest first."""
    st.subheader("Drops")
    if drops.empty:
        st.info(f"No number has dropped in the last {days} days.")
        return
    back = drops["back_at"].notna()
    table = pd.DataFrame(
        {
            "Number": drops["number"],
            "Now": back.map({True: "▲ back", False: "▼ down"}),
            "Gone since": minutes(drops["disconnected_at"]),
            "Back since": minutes(drops["back_at"]),
            "Business": drops["business"],
            "Connected from": minutes(drops["connected_at"]),
        }
    )
    show_table(table)


def show_uptime(uptime: pd.DataFrame, since: pd.Timestamp, days: int) -> None:
    """Show the uptime of each number and day: a colour, and the percentage beside it."""
    st.subheader("Uptime")
    if uptime.empty:
        st.info(f"Nothing was watched in the last {days} days: uptime is not known.")
        return
    sums = uptime.groupby("instance_id")[["seconds_connected", "seconds_observed"]].sum()
    sums["share"] = sums["seconds_connected"] / sums["seconds_observed"]
    sums = sums.sort_values("share").head(MOST_NUMBERS)
    numbers = uptime.drop_duplicates("instance_id").set_index("instance_id")
    names = numbers["number"]
    for more in (numbers["business"], numbers.index):  # of a name that two numbers have
        names = names.where(~names.duplicated(keep=False), names + ", " + more)
    labels = {key: f"{percent(share, 1)} % · {names[key]}" for key, share in sums["share"].items()}
    grid = pd.MultiIndex.from_product([sums.index, pd.date_range(since, periods=days)], names=["instance_id", "day"])
    cells = uptime.set_index(["instance_id", "day"]).reindex(grid).reset_index()
    cells["label"] = cells["instance_id"].map(labels)
    cells["percent"] = [
        percent(up, seen) if seen > 0 else None
        for up, seen in zip(cells["seconds_connected"], cells["seconds_observed"], strict=True)
    ]
    cells["text"] = cells["percent"].map("{:.0f}".format, na_action="ignore").fillna("?")
    cells["hours"] = (cells["seconds_observed"].fillna(0) / 3600).round(1)
    cells["date"] = cells["day"].dt.strftime("%d %b")
    base = alt.Chart(cells).encode(
        x=alt.X("date:O", sort=None, title=None, axis=alt.Axis(labelAngle=-90, orient="top")),
        y=alt.Y("label:N", sort=list(labels.values()), title=None, axis=alt.Axis(labelLimit=160)),
        tooltip=[
            alt.Tooltip("label:N", title="Number"),
            alt.Tooltip("date:O", title="Day"),
            alt.Tooltip("text:N", title="Uptime, %"),
            alt.Tooltip("hours:Q", title="Hours watched"),
        ],
    )
    chart = base.mark_rect(stroke="white", color=UNKNOWN) + base.mark_rect(stroke="white").encode(
        color=alt.Color("percent:Q", scale=alt.Scale(scheme=SCHEME, domain=[0, 100]), legend=None)
    )
    if days <= MOST_LABELS:
        chart += base.mark_text(fontSize=10).encode(
            text="text:N",
            color=alt.condition("datum.percent < 70 && isValid(datum.percent)", alt.value("white"), alt.value("black")),
        )
    st.altair_chart(chart.properties(height=alt.Step(24)), width="stretch")
    more = uptime["instance_id"].nunique() - len(sums)
    st.caption(
        "Percent of the watched time of each day; the lowest first. "
        "Yellow is up, dark violet is down, grey (?) was not watched."
        + (f" {more} more numbers with a higher uptime are not shown." if more else "")
    )


def show_connected(connected: pd.DataFrame) -> None:
    """List what is connected now."""
    st.subheader("Connected now")
    if connected.empty:
        st.info("No number was connected when its business was last read.")
        return
    table = pd.DataFrame(
        {
            "Number": connected["number"],
            "WhatsApp": connected["jid"].fillna("").str.partition("@")[0],
            "Since": minutes(connected["connected_at"]),
            "Business": connected["business"],
            "Last read": minutes(connected["observed_at"]),
        }
    )
    show_table(table)


def show_webhooks(webhooks: pd.DataFrame, events: pd.DataFrame) -> None:
    """List the webhooks of connected numbers, and who gets which event."""
    st.subheader("Webhooks")
    if webhooks.empty:
        st.info("No connected number has a webhook.")
        return
    events = events[events["webhook_id"].isin(webhooks["webhook_id"])]
    event = st.selectbox(
        "Who gets",
        [None, *sorted(events["event"].unique())],
        format_func=lambda name: name or "any event",
        help="new_jwt sends a number's credential to the webhook.",
    )
    by_webhook = events.groupby("webhook_id")["event"].agg(list).to_dict()
    webhooks = webhooks.assign(events=[by_webhook.get(key, []) for key in webhooks["webhook_id"]])
    if event:
        webhooks = webhooks[webhooks["events"].map(lambda names: event in names) & (webhooks["enabled"] == True)]  # noqa: E712
    if webhooks.empty:
        st.info("No webhook that is switched on gets this event.")
        return
    table = pd.DataFrame(
        {
            "Webhook": webhooks["webhook"],
            "Number": webhooks["number"],
            "Is": webhooks["enabled"].map({True: "on", False: "off"}).fillna("not known"),
            "URL": webhooks["url"].fillna(""),
            "Events": webhooks["events"].map(", ".join),
            "Business": webhooks["business"],
        }
    )
    show_table(table)


def show_table(table: pd.DataFrame) -> None:
    """Show a table. A long name is cut, so that on a phone what follows it is seen."""
    narrow = {name: st.column_config.Column(width=130) for name in ("Number", "Business", "Webhook") if name in table}
    st.dataframe(table, hide_index=True, column_config=narrow)


def minutes(times: pd.Series) -> pd.Series:
    """Return times as texts, empty where there is none."""
    return pd.to_datetime(times).dt.strftime("%Y-%m-%d %H:%M").fillna("")


def percent(part: float, whole: float) -> int:
    """Return a share as a percentage: 100 only if nothing is missing, 0 only if there is nothing."""
    value = 100 * part / whole
    return round(value) if value in {0, 100} else min(max(round(value), 1), 99)


def ago(time: timedelta) -> str:
    """Return how long ago something was."""
    hours = time.total_seconds() / 3600
    if hours < 1:
        return f"{max(int(hours * 60), 0)} minutes ago"
    return f"{int(hours)} hours ago" if hours < 48 else f"{int(hours / 24)} days ago"  # noqa: PLR2004


main()
