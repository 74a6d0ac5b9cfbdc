-- Observations are the reads since version 2 of the tap. The rows of version 1 tell of a read only where something
-- changed: each change lies between two reads.
with reads as (
    select business_id, observed_at as read_at, 0 as without_state
    from {{ ref('stg_codechat__observations') }}
    union all
    select business_id, previous_observed_at, 0
    from {{ ref('stg_codechat__observations') }}
    where previous_observed_at is not null
    union all
    select
        business_id,
        observed_at,
        case when change_type = 'connected' and previous_observed_at = observed_at then 1 else 0 end
    from {{ ref('stg_codechat__connection_changes') }}
    union all
    select business_id, previous_observed_at, 0
    from {{ ref('stg_codechat__connection_changes') }}
),

distinct_reads as (
    select business_id, read_at, max(without_state) as without_state
    from reads
    group by business_id, read_at
),

in_order as (
    select
        business_id,
        read_at,
        without_state,
        lag(read_at) over (partition by business_id order by read_at) as previous_read_at
    from distinct_reads
)

select
    business_id,
    read_at,
    previous_read_at,
    without_state = 1 as without_state,
    coalesce(
        {{ codechat.micros('read_at') }} - {{ codechat.micros('previous_read_at') }} <= {{ codechat.longest_gap() }},
        false
    ) as watched
from in_order
