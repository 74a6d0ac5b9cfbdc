select
    instance_id,
    webhook_id,
    name,
    url,
    enabled,
    {{ codechat.utc('created_at') }} as created_at,
    {{ codechat.utc('updated_at') }} as updated_at,
    {{ codechat.utc('deleted_at') }} as deleted_at,
    additional_properties
from {{ source('codechat', 'webhooks') }}
{{ codechat.without_deleted(source('codechat', 'webhooks')) }}
