{#- True if a table of the loader has this column. -#}
{% macro has_column(relation, name) -%}
    {%- if execute -%}
        {%- for column in adapter.get_columns_in_relation(relation) if column.name | lower == name -%}
            {{- return(true) -}}
        {%- endfor -%}
    {%- endif -%}
    {{- return(false) -}}
{%- endmacro %}

{#- Leaves out the rows that an ACTIVATE_VERSION has marked as deleted, where the loader marks them. -#}
{% macro without_deleted(relation) -%}
    {%- if codechat.has_column(relation, '_sdc_deleted_at') %}
where _sdc_deleted_at is null
    {%- endif %}
{%- endmacro %}
