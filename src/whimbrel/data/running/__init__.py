"""Pipelines over many files: a task per input file, done once, in processes here or through Ray, with the same bytes as result.

For: running filters, deduplication and writers over a corpus, and going on after a crash.
In: a ``Plan``.
Out: a folder of output files, one per input, and ``report.json``: counts and samples per reason, faults, rates.
May not: know what a filter looks for.
"""
