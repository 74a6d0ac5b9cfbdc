{#- Time, in the SQL of each warehouse. Every timestamp of the models is without a time zone, in UTC. -#}

{#- Microseconds since 1970 UTC. Right for columns with a time zone (Airbyte) and without one in UTC (the Singer
    loaders), whatever the time zone of the session. -#}
{% macro micros(time) %}{{ adapter.dispatch('micros', 'codechat')(time) }}{% endmacro %}
{% macro default__micros(time) %}cast(extract(epoch from {{ time }}) * 1000000 as bigint){% endmacro %}
{% macro duckdb__micros(time) %}epoch_us({{ time }}){% endmacro %}
{% macro snowflake__micros(time) %}date_part(epoch_microsecond, {{ time }}){% endmacro %}

{#- A timestamp in UTC, from a column with or without a time zone. -#}
{% macro utc(time) %}{{ adapter.dispatch('utc', 'codechat')(time) }}{% endmacro %}
{% macro default__utc(time) -%}
    (timestamp '1970-01-01' + {{ codechat.micros(time) }} * interval '1 microsecond')
{%- endmacro %}
{% macro duckdb__utc(time) %}make_timestamp({{ codechat.micros(time) }}){% endmacro %}
{% macro snowflake__utc(time) %}to_timestamp_ntz({{ codechat.micros(time) }}, 6){% endmacro %}

{#- The time of the query. -#}
{% macro now() %}{{ codechat.utc('current_timestamp') }}{% endmacro %}

{#- Seconds from one time to another. -#}
{% macro seconds(start, end) -%}
    ({{ codechat.in_seconds(codechat.micros(end) ~ ' - ' ~ codechat.micros(start)) }})
{%- endmacro %}
{% macro in_seconds(micros) %}cast({{ micros }} as double precision) / 1000000{% endmacro %}

{#- The day of a time, in the time zone of codechat_timezone. -#}
{% macro day_of(time) -%}
    {%- if var('codechat_timezone') == 'UTC' -%}
        cast({{ time }} as date)
    {%- else -%}
        cast({{ adapter.dispatch('convert_zone', 'codechat')(time, 'UTC', var('codechat_timezone')) }} as date)
    {%- endif -%}
{%- endmacro %}

{#- When a day of that time zone begins, in UTC. -#}
{% macro day_start(day) -%}
    {%- if var('codechat_timezone') == 'UTC' -%}
        cast({{ day }} as timestamp)
    {%- else -%}
        {{ adapter.dispatch('convert_zone', 'codechat')(
            'cast(' ~ day ~ ' as timestamp)', var('codechat_timezone'), 'UTC') }}
    {%- endif -%}
{%- endmacro %}

{% macro default__convert_zone(time, source, target) -%}
    (({{ time }} at time zone '{{ source }}') at time zone '{{ target }}')
{%- endmacro %}
{% macro snowflake__convert_zone(time, source, target) -%}
    convert_timezone('{{ source }}', '{{ target }}', {{ time }})
{%- endmacro %}

{#- The longest time between two reads of a business that still counts as watched, in microseconds. -#}
{% macro longest_gap() %}{{ (var('codechat_gap_hours') | float * 3600000000) | int }}{% endmacro %}
