{#- True if a table of the loader has this column. -#}
{% macro has_column(relation, name) -%}
    {%- if execute -%}
        {%- for column in adapter.get_columns_in_relation(relation) if column.name | lower == name -%}
            {{- return(true) -}}
        {%- endfor -%}
    {%- endif -%}
    {{- return(false) -}}
{%- endmacro %}
