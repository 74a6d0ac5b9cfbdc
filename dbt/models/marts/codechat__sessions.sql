{{ config(materialized='table') }}
{%- set session = "business_id, instance_id, connected_at, ended_at, ended_by, is_end_known, next_connected_at, business_observed_at" %}
{%- set never = "timestamp '9999-12-31 00:00:00'" %}

-- A table, made anew at each build: an end that nobody told can be learned long after it.
--
-- First the listings: when one business listed an instance, whatever the others did. Then, from `listings` on, the
-- sessions: an instance belongs to one business at a time, to the one that was the last to begin to list it.
with told as (
    select business_id, instance_id, change_type, observed_at, previous_observed_at
    from {{ ref('stg_codechat__connection_changes') }}
    union all
    -- A row that says that it is gone also says that it was there at the read before.
    select business_id, instance_id, 'listed', previous_observed_at, previous_observed_at
    from {{ ref('stg_codechat__connection_changes') }}
    where change_type = 'disconnected'
    union all
    select business_id, instance_id, 'listed', observed_at, observed_at
    from {{ ref('stg_codechat__instances') }}
),

followed as (
    select
        told.*,
        lag(told.change_type) over (
            partition by told.business_id, told.instance_id order by told.observed_at, told.change_type
        ) as last_change_type,
        lag(next_reads.read_at) over (
            partition by told.business_id, told.instance_id order by told.observed_at, told.change_type
        ) as first_read_since
    from told
    left join {{ ref('int_codechat__reads') }} as next_reads
        on told.business_id = next_reads.business_id and told.observed_at = next_reads.previous_read_at
),

-- If the state was lost right after a `disconnected` row was loaded, and the instance was back at the next read, no
-- row says so. Then it is taken for connected from that read on.
changes as (
    select business_id, instance_id, change_type, observed_at, previous_observed_at
    from followed
    where change_type != 'listed'
    union all
    select
        business_id,
        instance_id,
        'connected',
        coalesce(first_read_since, observed_at),
        coalesce(first_read_since, observed_at)
    from followed
    where change_type = 'listed' and last_change_type = 'disconnected'
),

numbered as (
    select
        *,
        -- The number of the last connected row: a disconnected row ends what that one began or went on with.
        sum(case when change_type = 'connected' then 1 else 0 end) over (
            partition by business_id, instance_id
            order by observed_at, change_type desc
            rows between unbounded preceding and current row
        ) as connected_number
    from changes
),

ends as (
    select
        *,
        min(case when change_type = 'disconnected' then observed_at end) over (
            partition by business_id, instance_id, connected_number
        ) as told_at
    from numbered
),

-- Each connected row with the end that was told of it, the read before it, and the next read that tells all that was
-- connected.
connected as (
    select
        ends.business_id,
        ends.instance_id,
        ends.previous_observed_at,
        ends.observed_at,
        ends.told_at,
        reads.previous_read_at,
        reads.next_telling_all_at
    from ends
    left join {{ ref('int_codechat__reads') }} as reads
        on ends.business_id = reads.business_id and ends.observed_at = reads.read_at
    where ends.change_type = 'connected'
),

linked as (
    select
        *,
        lag(observed_at) over (partition by business_id, instance_id order by observed_at) as last_observed_at,
        lag(told_at) over (partition by business_id, instance_id order by observed_at) as last_told_at,
        lag(next_telling_all_at) over (partition by business_id, instance_id order by observed_at) as missed_at,
        lag(business_id) over (partition by instance_id order by observed_at, business_id) as last_business_id,
        lag(observed_at) over (partition by instance_id order by observed_at, business_id) as last_anywhere_at
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
                    last_told_at is null
                    and (missed_at is null or missed_at >= observed_at)
                    and (previous_observed_at <= last_observed_at or previous_observed_at >= observed_at)
                    and (business_id = last_business_id or previous_read_at > last_anywhere_at)
                    then 0
                else 1
            end
        ) over (
            partition by business_id, instance_id
            order by observed_at
            rows between unbounded preceding and current row
        ) as listing_number
    from linked
),

grouped as (
    select
        business_id,
        instance_id,
        listing_number,
        min(previous_observed_at) as previous_observed_at,
        min(observed_at) as connected_at,
        max(observed_at) as last_connected_at,
        max(told_at) as told_at,
        max(next_telling_all_at) as next_telling_all_at
    from parted
    group by business_id, instance_id, listing_number
),

in_order as (
    select
        *,
        lead(connected_at) over (partition by business_id, instance_id order by listing_number) as next_listing_at,
        lead(previous_observed_at) over (
            partition by business_id, instance_id order by listing_number
        ) as missed_before_next_at,
        lead(connected_at) over (partition by instance_id order by connected_at, business_id) as next_connected_at
    from grouped
),

last_reads as (
    select business_id, max(read_at) as read_at
    from {{ ref('int_codechat__reads') }}
    group by business_id
),

-- missed_at is the first read that is known to have missed an instance whose end was not told.
missed as (
    select
        in_order.*,
        coalesce(last_reads.read_at, in_order.last_connected_at) as last_read_at,
        case
            when
                in_order.next_telling_all_at > in_order.last_connected_at
                and (in_order.next_listing_at is null or in_order.next_telling_all_at < in_order.next_listing_at)
                then in_order.next_telling_all_at
            when in_order.missed_before_next_at > in_order.last_connected_at then in_order.missed_before_next_at
            else in_order.next_listing_at
        end as missed_at
    from in_order
    left join last_reads
        on in_order.business_id = last_reads.business_id
),

seen as (
    select
        missed.*,
        businesses.observed_at as business_observed_at,
        coalesce(
            missed.told_at is null
            and missed.next_listing_at is null
            and instances.business_id = missed.business_id
            and instances.observed_at = businesses.observed_at,
            false
        ) as is_listed_now,
        -- That a read missed it counts if it is back since.
        coalesce(
            missed.told_at,
            case
                when coalesce(instances.observed_at, missed.next_connected_at) >= missed.missed_at then missed.missed_at
            end
        ) as known_end_at,
        case
            when instances.business_id = missed.business_id then instances.observed_at
            -- Its row is of another business, or gone, if the loader deletes rows.
            else least(
                coalesce(missed.missed_at, missed.last_read_at),
                coalesce(instances.observed_at, missed.missed_at, missed.last_read_at)
            )
        end as last_listed_at
    from missed
    left join {{ ref('stg_codechat__businesses') }} as businesses
        on missed.business_id = businesses.business_id
    left join {{ ref('stg_codechat__instances') }} as instances
        on missed.instance_id = instances.instance_id
),

ended as (
    select
        *,
        case
            when is_listed_now then null
            else coalesce(known_end_at, greatest(last_connected_at, last_listed_at))
        end as ended_at,
        case
            when is_listed_now then null
            when told_at is not null then 'disconnected'
            else 'not listed'
        end as ended_by
    from seen
),

with_last_seen as (
    select
        ended.*,
        case
            when ended.known_end_at is null then ended.ended_at
            else coalesce(reads.previous_read_at, ended.connected_at)
        end as last_seen_at
    from ended
    left join {{ ref('int_codechat__reads') }} as reads
        on ended.business_id = reads.business_id and ended.ended_at = reads.read_at
),

-- Another business's connected row ends a listing for good, if the instance was not seen in this one after it.
moved as (
    select
        *,
        coalesce(
            next_connected_at > last_seen_at and (known_end_at is null or next_connected_at < ended_at), false
        ) as is_moved
    from with_last_seen
),

listings as (
    select
        business_id,
        instance_id,
        connected_at,
        case when is_moved then next_connected_at else ended_at end as ended_at,
        case when is_moved then 'moved' else ended_by end as ended_by,
        is_moved or known_end_at is not null as is_end_known,
        last_seen_at,
        next_connected_at,
        business_observed_at
    from moved
),

-- others_until is when the last of the listings that began before it ends, as far as that is known.
overlaid as (
    select
        *,
        max(case when is_end_known then ended_at else {{ never }} end) over (
            partition by instance_id
            order by connected_at, business_id
            rows between unbounded preceding and 1 preceding
        ) as others_until
    from listings
),

-- Where a session ends and another business goes on to list the instance, it is back there, which no row tells: a read
-- of that business has seen it after it was last seen here.
back as (
    select
        overlaid.instance_id,
        overlaid.ended_at as connected_at,
        overlaid.next_connected_at,
        others.business_id,
        others.ended_at,
        others.ended_by,
        others.is_end_known,
        others.business_observed_at,
        row_number() over (
            partition by overlaid.instance_id, overlaid.ended_at
            order by coalesce(others.ended_at, {{ never }}) desc, others.connected_at desc
        ) as place
    from overlaid
    inner join overlaid as others
        on overlaid.instance_id = others.instance_id
    left join {{ ref('int_codechat__reads') }} as reads
        on
            others.business_id = reads.business_id
            and reads.read_at > overlaid.last_seen_at
            and reads.read_at <= coalesce(others.last_seen_at, reads.read_at)
            and reads.read_at < coalesce(overlaid.next_connected_at, {{ never }})
    where
        overlaid.others_until > overlaid.ended_at
        and coalesce(overlaid.next_connected_at > overlaid.ended_at, true)
        and others.connected_at <= overlaid.connected_at
        and (
            coalesce(others.ended_at, {{ never }}) > overlaid.ended_at
            or (overlaid.next_connected_at is not null and not others.is_end_known)
        )
        -- What is listed now is so in any case, unless it was in yet another business since.
        and (reads.read_at is not null or (others.ended_at is null and overlaid.next_connected_at is null))
),

sessions as (
    select {{ session }}
    from listings
    union all
    select {{ session }}
    from back
    where place = 1
),

cut as (
    select
        *,
        next_connected_at is not null and (not is_end_known or next_connected_at < ended_at) as is_cut
    from sessions
),

dated as (
    select
        business_id,
        instance_id,
        connected_at,
        case when is_cut then next_connected_at else ended_at end as disconnected_at,
        case when is_cut then 'moved' else ended_by end as ended_by,
        business_observed_at
    from cut
)

select
    business_id,
    instance_id,
    connected_at,
    disconnected_at,
    ended_by,
    {{ codechat.seconds('connected_at', 'coalesce(disconnected_at, greatest(connected_at, business_observed_at))') }}
        as duration_s
from dated
