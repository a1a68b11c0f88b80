"""Anthropic's messages API: ``/v1/messages`` and ``/v1/messages/count_tokens``.

For: programs made for that API. In: its requests, with any ``anthropic-version``. Out: its messages, events and errors.
May not: know more of a model than ``Job`` and ``Answer`` tell.
"""
