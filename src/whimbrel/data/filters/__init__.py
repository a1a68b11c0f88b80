"""Filters: ``filter(document) -> Keep | Drop(reason)``, each a rule set from a paper with its published thresholds.

For: dropping documents by rule, language, contamination or score, with a reason that is counted.
In: a document (scoring takes batches).
Out: ``Keep`` (perhaps with an edited text, or notes for its metadata) or ``Drop(reason)``.
May not: depend on documents that came before, on the time, or on chance; deduplication is ``whimbrel.data.duplicates``.
"""
