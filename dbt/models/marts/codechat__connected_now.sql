select
    businesses.business_id,
    businesses.name as business_name,
    instances.instance_id,
    instances.name as instance_name,
    instances.whatsapp_remote_jid,
    instances.whatsapp_push_name,
    instances.created_at,
    instances.observed_at,
    {{ codechat.seconds('instances.observed_at', codechat.now()) }} as age_s
from {{ ref('stg_codechat__instances') }} as instances
inner join {{ ref('stg_codechat__businesses') }} as businesses
    on instances.business_id = businesses.business_id and instances.observed_at = businesses.observed_at
