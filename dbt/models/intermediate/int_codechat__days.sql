-- Counted back from the last day, so that a read with a clock that was years behind cannot cut the latest days off.
-- No recursion: Snowflake ends one after 100 rounds.
with ends as (
    select {{ codechat.day_of('min(read_at)') }} as first_day, {{ codechat.day_of('max(read_at)') }} as last_day
    from {{ ref('int_codechat__reads') }}
),

digits as (
    {% for digit in range(10) %}select {{ digit }} as digit{{ ' union all ' if not loop.last }}{% endfor %}
),

days as (
    select ends.last_day - (ones.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit) as day
    from ends
    cross join digits as ones
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands
    where
        ends.last_day - (ones.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit)
        >= ends.first_day
)

select
    day,
    {{ codechat.day_start('day') }} as starts_at,
    {{ codechat.day_start('(day + 1)') }} as ends_at
from days
