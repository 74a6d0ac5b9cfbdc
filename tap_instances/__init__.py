"""tap-instances: a Singer tap for CodeChat, a WhatsApp gateway.

``run`` takes a snapshot per business from ``client`` (HTTP, with ``body``, ``responses``, ``failures``, ``paging``),
makes rows of it with ``records`` (and ``columns``, ``values``, ``redact``), and lets ``streams`` write what ``memory``
says is new, through ``sdk``, to stdout. ``tap``, ``settings`` and ``businesses`` say how a run is started.
"""
