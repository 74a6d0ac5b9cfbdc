select
    business_id,
    name,
    {{ codechat.utc('observed_at') }} as observed_at,
    additional_properties
from {{ source('codechat', 'businesses') }}
{{ codechat.without_deleted(source('codechat', 'businesses')) }}
