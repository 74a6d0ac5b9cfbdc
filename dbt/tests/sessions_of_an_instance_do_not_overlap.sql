with in_order as (
    select
        instance_id,
        connected_at,
        disconnected_at,
        lead(connected_at) over (
            partition by instance_id order by connected_at, disconnected_at nulls last
        ) as next_connected_at
    from {{ ref('codechat__sessions') }}
)

select *
from in_order
where
    disconnected_at < connected_at
    or disconnected_at > next_connected_at
    or (disconnected_at is null and next_connected_at is not null)
