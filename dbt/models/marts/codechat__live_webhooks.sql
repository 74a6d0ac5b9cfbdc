select
    webhooks.webhook_id,
    webhooks.name,
    webhooks.url,
    webhooks.enabled,
    webhooks.created_at,
    webhooks.updated_at,
    connected.instance_id,
    connected.instance_name,
    connected.business_id,
    connected.business_name,
    connected.observed_at
from {{ ref('stg_codechat__webhooks') }} as webhooks
inner join {{ ref('codechat__connected_now') }} as connected
    on webhooks.instance_id = connected.instance_id
where webhooks.deleted_at is null
