select
    business_id,
    {{ codechat.utc('observed_at') }} as observed_at,
    {{ codechat.utc('previous_observed_at') }} as previous_observed_at,
    instances,
    webhooks
from {{ source('codechat', 'observations') }}
