"""tap-instances: a Singer tap for CodeChat, a WhatsApp gateway.

The way of the data, in one direction: ``client`` and ``responses`` (one request per business, one whole snapshot) ->
``run`` (page by page) -> ``records`` (an API object becomes a row) -> ``streams``, ``memory`` (is it new?) -> ``sdk``
-> stdout. ``tap`` and ``settings`` say how a run is started; ``memory`` is also what the next run is told.
"""
