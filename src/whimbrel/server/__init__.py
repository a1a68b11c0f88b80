"""server: how do programs and browsers reach a model over HTTP?

For: the OpenAI-compatible server (and Anthropic's and Ollama's shapes of the same), the chat page, health and metrics.
In: requests in those shapes. Out: JSON, server-sent events, static files.
May not: compute, sample, parse tool calls, or know a grammar: it translates requests to ``backends.LLM`` and answers back.

A request's way: ``envelope`` (id, log) -> ``guard`` (host, key, size) -> a dialect (``openai/``, ``anthropic``, ``ollama``)
-> ``Job`` -> ``Service.open`` -> the model's ``Driver``, one thread that steps the engine -> ``Answer`` -> the dialect again.
"""
