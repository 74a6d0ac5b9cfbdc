{{ config(materialized='table') }}

-- A table, made anew at each build, not incremental: an end that is learned later changes past days.
with sessions as (
    select
        *,
        -- An instance belongs to the business of its last session until the next one begins: so long as that
        -- business is read, it is known to be connected or not.
        lead(connected_at) over (
            partition by instance_id order by connected_at, disconnected_at nulls last
        ) as next_connected_at
    from {{ ref('codechat__sessions') }}
),

-- Reads that follow each other closely make one span.
numbered as (
    select
        *,
        sum(case when watched then 0 else 1 end) over (
            partition by business_id order by read_at rows between unbounded preceding and current row
        ) as span_number
    from {{ ref('int_codechat__reads') }}
),

spans as (
    select business_id, min(read_at) as starts_at, max(read_at) as ends_at
    from numbered
    group by business_id, span_number
),

watched as (
    select
        spans.business_id,
        days.day,
        greatest(spans.starts_at, days.starts_at) as starts_at,
        least(spans.ends_at, days.ends_at) as ends_at
    from spans
    inner join {{ ref('int_codechat__days') }} as days
        on spans.starts_at < days.ends_at and spans.ends_at > days.starts_at
),

parts as (
    select
        sessions.instance_id,
        watched.day,
        greatest(watched.starts_at, sessions.connected_at) as starts_at,
        least(watched.ends_at, coalesce(sessions.disconnected_at, watched.ends_at)) as connected_until,
        least(watched.ends_at, coalesce(sessions.next_connected_at, watched.ends_at)) as observed_until
    from sessions
    inner join watched
        on
            sessions.business_id = watched.business_id
            and sessions.connected_at < watched.ends_at
            and coalesce(sessions.next_connected_at, watched.ends_at) > watched.starts_at
),

measured as (
    select
        instance_id,
        day,
        {{ codechat.micros('greatest(starts_at, connected_until)') }} - {{ codechat.micros('starts_at') }} as connected,
        {{ codechat.micros('observed_until') }} - {{ codechat.micros('starts_at') }} as observed
    from parts
),

summed as (
    select instance_id, day, sum(connected) as connected, sum(observed) as observed
    from measured
    group by instance_id, day
)

select
    instance_id,
    day,
    {{ codechat.in_seconds('connected') }} as seconds_connected,
    {{ codechat.in_seconds('observed') }} as seconds_observed,
    cast(connected as double precision) / observed as share
from summed
where observed > 0
