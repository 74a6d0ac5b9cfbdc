with connected as (
    select business_id, count(*) as instances
    from {{ ref('codechat__connected_now') }}
    group by business_id
),

businesses as (
    select
        business_id,
        name as business_name,
        observed_at,
        {{ codechat.seconds('observed_at', codechat.now()) }} as age_s
    from {{ ref('stg_codechat__businesses') }}
)

select
    businesses.business_id,
    businesses.business_name,
    businesses.observed_at,
    businesses.age_s,
    coalesce(connected.instances, 0) as instances
from businesses
left join connected on businesses.business_id = connected.business_id
where businesses.age_s >= {{ var('codechat_stale_hours') | float * 3600 }}
