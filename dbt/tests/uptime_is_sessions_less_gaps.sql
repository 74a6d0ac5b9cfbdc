-- A day's seconds connected, computed the other way round: its sessions' parts, less what of them lies in gaps.
with last_reads as (
    select business_id, max(read_at) as read_at
    from {{ ref('int_codechat__reads') }}
    group by business_id
),

-- A session can end after the last read of its business: where another one lists the instance.
read_sessions as (
    select
        sessions.business_id,
        sessions.instance_id,
        sessions.connected_at,
        least(coalesce(sessions.disconnected_at, last_reads.read_at), last_reads.read_at) as read_until
    from {{ ref('codechat__sessions') }} as sessions
    inner join last_reads
        on sessions.business_id = last_reads.business_id
),

parts as (
    select
        read_sessions.business_id,
        read_sessions.instance_id,
        days.day,
        greatest(read_sessions.connected_at, days.starts_at) as starts_at,
        least(read_sessions.read_until, days.ends_at) as ends_at
    from read_sessions
    inner join {{ ref('int_codechat__days') }} as days
        on read_sessions.connected_at < days.ends_at and read_sessions.read_until > days.starts_at
    where read_sessions.connected_at < read_sessions.read_until
),

seconds as (
    select instance_id, day, {{ codechat.seconds('starts_at', 'ends_at') }} as connected
    from parts
    union all
    select
        parts.instance_id,
        parts.day,
        -{{ codechat.seconds(
            'greatest(parts.starts_at, gaps.previous_read_at)', 'least(parts.ends_at, gaps.read_at)') }}
    from parts
    inner join {{ ref('int_codechat__reads') }} as gaps
        on
            parts.business_id = gaps.business_id
            and not gaps.watched
            and gaps.previous_read_at < parts.ends_at
            and gaps.read_at > parts.starts_at
),

expected as (
    select instance_id, day, sum(connected) as seconds_connected
    from seconds
    group by instance_id, day
),

compared as (
    select
        coalesce(expected.instance_id, uptime.instance_id) as instance_id,
        coalesce(expected.day, uptime.day) as day,
        coalesce(expected.seconds_connected, 0) as expected,
        coalesce(uptime.seconds_connected, 0) as found
    from expected
    full outer join {{ ref('codechat__daily_uptime') }} as uptime
        on expected.instance_id = uptime.instance_id and expected.day = uptime.day
)

select *
from compared
where abs(expected - found) > 0.001
