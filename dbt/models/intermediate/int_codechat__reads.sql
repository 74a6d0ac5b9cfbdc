-- Observations are the reads since version 2 of the tap. The rows of version 1 tell of a read only where something
-- changed: each change lies between two reads.
-- The rows of a read tell all that was connected if the tap had no state, or if nothing was: what they do not tell was
-- not connected then. Those of any other read tell only what changed.
with reads as (
    select business_id, observed_at as read_at, case when instances = 0 then 1 else 0 end as tells_all
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
    select business_id, read_at, max(tells_all) as tells_all
    from reads
    group by business_id, read_at
),

in_order as (
    select
        business_id,
        read_at,
        lag(read_at) over (partition by business_id order by read_at) as previous_read_at,
        min(case when tells_all = 1 then read_at end) over (
            partition by business_id order by read_at desc rows between unbounded preceding and current row
        ) as this_or_next_telling_all_at
    from distinct_reads
)

select
    business_id,
    read_at,
    previous_read_at,
    lead(this_or_next_telling_all_at) over (partition by business_id order by read_at) as next_telling_all_at,
    coalesce(
        {{ codechat.micros('read_at') }} - {{ codechat.micros('previous_read_at') }} <= {{ codechat.longest_gap() }},
        false
    ) as watched
from in_order
