"""tap-instances: a Singer tap for CodeChat, a WhatsApp gateway.

A value's way, in one direction: ``client`` and ``responses`` (one request per business, one whole snapshot) -> ``run``
(page by page) -> ``typed`` or ``records`` (an API object becomes a row) -> ``streams`` and ``changes`` (is it new?)
-> ``sdk`` -> stdout. ``tap`` and ``settings`` say how it is started, ``state`` what the next run is told.
"""
