with events as (
    {% for event in codechat.events() %}
    select '{{ event }}' as event{{ ' union all' if not loop.last }}
    {% endfor %}
)

select
    webhooks.webhook_id,
    events.event,
    case events.event
        {% for event in codechat.events() %}
        when '{{ event }}' then flags.{{ event }}
        {% endfor %}
    end as enabled,
    webhooks.enabled as webhook_enabled
from {{ ref('codechat__live_webhooks') }} as webhooks
inner join {{ ref('stg_codechat__webhook_events') }} as flags
    on webhooks.webhook_id = flags.webhook_id and flags.deleted_at is null
cross join events
