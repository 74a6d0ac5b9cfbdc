-- Both say what is connected now, each from a table of its own.
with connected as (
    select business_id, instance_id from {{ ref('codechat__connected_now') }}
),

lasting as (
    select business_id, instance_id from {{ ref('codechat__sessions') }} where disconnected_at is null
)

select
    connected.instance_id as connected_instance_id,
    lasting.instance_id as lasting_instance_id
from connected
full outer join lasting
    on connected.instance_id = lasting.instance_id and connected.business_id = lasting.business_id
where connected.instance_id is null or lasting.instance_id is null
