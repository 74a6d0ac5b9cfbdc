with expected as (
    select count(*) * {{ codechat.events() | length }} as subscriptions
    from {{ ref('codechat__live_webhooks') }} as webhooks
    inner join {{ ref('stg_codechat__webhook_events') }} as flags
        on webhooks.webhook_id = flags.webhook_id and flags.deleted_at is null
),

found as (
    select count(*) as subscriptions from {{ ref('codechat__event_subscriptions') }}
)

select expected.subscriptions as expected, found.subscriptions as found
from expected
cross join found
where expected.subscriptions != found.subscriptions
