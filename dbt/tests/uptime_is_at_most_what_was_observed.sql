select
    uptime.*,
    {{ codechat.seconds('days.starts_at', 'days.ends_at') }} as seconds_of_the_day
from {{ ref('codechat__daily_uptime') }} as uptime
inner join {{ ref('int_codechat__days') }} as days
    on uptime.day = days.day
where
    uptime.seconds_connected < 0
    or uptime.seconds_connected > uptime.seconds_observed
    or uptime.seconds_observed > {{ codechat.seconds('days.starts_at', 'days.ends_at') }}
