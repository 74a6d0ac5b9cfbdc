-- With the rows that a loader has marked as deleted: they tell when an instance was last listed, and its name.
select
    business_id,
    instance_id,
    name,
    state,
    connection,
    {{ codechat.utc('created_at') }} as created_at,
    {{ codechat.utc('deleted_at') }} as deleted_at,
    auth_id,
    {{ codechat.utc('auth_created_at') }} as auth_created_at,
    {{ codechat.utc('auth_updated_at') }} as auth_updated_at,
    whatsapp_id,
    whatsapp_remote_jid,
    whatsapp_picture_url,
    whatsapp_push_name,
    {{ codechat.utc('whatsapp_created_at') }} as whatsapp_created_at,
    {{ codechat.utc('observed_at') }} as observed_at,
    additional_properties
from {{ source('codechat', 'instances') }}
