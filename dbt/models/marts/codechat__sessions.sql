{{ config(materialized='table') }}

-- A table, made anew at each build: an end that nobody told can be learned long after it.
with numbered as (
    select
        *,
        -- The number of the last connected row: a disconnected row can only end what that one began or went on with.
        sum(case when change_type = 'connected' then 1 else 0 end) over (
            partition by instance_id
            order by observed_at, change_type desc, business_id
            rows between unbounded preceding and current row
        ) as connected_number
    from {{ ref('stg_codechat__connection_changes') }}
),

told as (
    select
        *,
        min(case when change_type = 'disconnected' then observed_at end) over (
            partition by instance_id, connected_number, business_id
        ) as told_at
    from numbered
),

-- Each connected row with the end that was told of it, and the next read that tells all that was connected.
connected as (
    select
        told.business_id,
        told.instance_id,
        told.previous_observed_at,
        told.observed_at,
        told.told_at,
        reads.next_telling_all_at
    from told
    left join {{ ref('int_codechat__reads') }} as reads
        on told.business_id = reads.business_id and told.observed_at = reads.read_at
    where told.change_type = 'connected'
),

linked as (
    select
        *,
        lag(business_id) over (partition by instance_id order by observed_at, business_id) as last_business_id,
        lag(observed_at) over (partition by instance_id order by observed_at, business_id) as last_observed_at,
        lag(told_at) over (partition by instance_id order by observed_at, business_id) as last_told_at,
        lag(next_telling_all_at) over (partition by instance_id order by observed_at, business_id) as missed_at
    from connected
),

parted as (
    select
        *,
        sum(
            case
                -- A run without state says once more that the instance is connected; a row with an earlier
                -- previous_observed_at says that it was not listed then, even where nobody told the end.
                when
                    business_id = last_business_id
                    and last_told_at is null
                    and (missed_at is null or missed_at >= observed_at)
                    and (previous_observed_at <= last_observed_at or previous_observed_at >= observed_at)
                    then 0
                else 1
            end
        ) over (
            partition by instance_id
            order by observed_at, business_id
            rows between unbounded preceding and current row
        ) as session_number
    from linked
),

grouped as (
    select
        instance_id,
        session_number,
        min(business_id) as business_id,
        min(previous_observed_at) as previous_observed_at,
        min(observed_at) as connected_at,
        max(observed_at) as last_connected_at,
        max(told_at) as told_at,
        max(next_telling_all_at) as next_telling_all_at
    from parted
    group by instance_id, session_number
),

in_order as (
    select
        business_id,
        instance_id,
        connected_at,
        last_connected_at,
        told_at,
        case when next_telling_all_at > last_connected_at then next_telling_all_at end as missed_at,
        lead(business_id) over (partition by instance_id order by session_number) as next_business_id,
        lead(connected_at) over (partition by instance_id order by session_number) as next_connected_at,
        lead(previous_observed_at) over (partition by instance_id order by session_number) as missed_before_next_at
    from grouped
),

last_reads as (
    select business_id, max(read_at) as read_at
    from {{ ref('int_codechat__reads') }}
    group by business_id
),

ended as (
    select
        sessions.business_id,
        sessions.instance_id,
        sessions.connected_at,
        businesses.observed_at as business_observed_at,
        case
            when sessions.told_at is not null then 'disconnected'
            when sessions.next_business_id != sessions.business_id then 'moved'
            when sessions.next_business_id is null and instances.observed_at = businesses.observed_at then null
            else 'not listed'
        end as ended_by,
        sessions.told_at,
        sessions.next_connected_at,
        case
            when sessions.missed_at < sessions.next_connected_at then sessions.missed_at
            when sessions.next_connected_at is not null then sessions.missed_before_next_at
            -- Its row may be gone, if the loader deletes rows.
            else greatest(
                sessions.last_connected_at,
                coalesce(
                    instances.observed_at, sessions.missed_at, last_reads.read_at, sessions.last_connected_at
                )
            )
        end as not_listed_at
    from in_order as sessions
    left join {{ ref('stg_codechat__businesses') }} as businesses
        on sessions.business_id = businesses.business_id
    left join {{ ref('stg_codechat__instances') }} as instances
        on sessions.business_id = instances.business_id and sessions.instance_id = instances.instance_id
    left join last_reads
        on sessions.business_id = last_reads.business_id
),

dated as (
    select
        business_id,
        instance_id,
        connected_at,
        case ended_by
            when 'disconnected' then told_at
            when 'moved' then next_connected_at
            when 'not listed' then not_listed_at
        end as disconnected_at,
        ended_by,
        business_observed_at
    from ended
)

select
    business_id,
    instance_id,
    connected_at,
    disconnected_at,
    ended_by,
    {{ codechat.seconds('connected_at', 'coalesce(disconnected_at, business_observed_at)') }} as duration_s
from dated
