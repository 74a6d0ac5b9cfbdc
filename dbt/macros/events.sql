{#- Written by `make docs` from schemas/webhook_events.json: the events that a webhook can get. -#}
{% macro events() -%}
    {{- return([
        'qrcode_update',
        'state_instance',
        'messages_set',
        'messages_upsert',
        'messages_update',
        'send_message',
        'contacts_set',
        'contacts_upsert',
        'contacts_update',
        'presence_update',
        'chats_set',
        'chats_update',
        'chats_upsert',
        'groups_upsert',
        'group_update',
        'group_participants_update',
        'connection_update',
        'call_upsert',
        'new_jwt',
    ]) -}}
{%- endmacro %}
