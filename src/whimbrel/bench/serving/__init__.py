"""Servers and clients as processes: what ``bench.server`` measures and what ``bench.soak`` torments.

``crowd`` is many cheap clients in one process; ``processes`` starts servers, ours and others' (``llama_server``
compiles one of these); ``alone`` is the engine without a server; ``http`` is one exchange, as well or as badly as a
client can behave, and ``mischief`` a list of what clients do.
"""
