{#- The tap's version 1 had a column change, and 1970 for the first sync of a business. -#}
{%- set table = source('codechat', 'connection_changes') -%}
{%- set change_type = 'coalesce(change_type, change)' if codechat.has_column(table, 'change') else 'change_type' -%}

with renamed as (
    select
        business_id,
        instance_id,
        {{ change_type }} as change_type,
        {{ codechat.utc('previous_observed_at') }} as previous_observed_at,
        {{ codechat.utc('observed_at') }} as observed_at
    from {{ table }}
)

select
    business_id,
    instance_id,
    change_type,
    case
        when previous_observed_at = timestamp '1970-01-01 00:00:00' then observed_at
        else previous_observed_at
    end as previous_observed_at,
    observed_at
from renamed
