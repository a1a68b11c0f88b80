"""Training: how do weights improve, and attention for it.

For: gradients through sparse attention, recipes that adapt a model, and other libraries' models (``transformers``).
In: torch tensors and models, token ids, a ``SparseConfig``.
Out: torch tensors, checkpoints, a loss log.
May not: filter data, run requests, or be imported by anything that inference needs. Needs the extra ``[torch]``.
"""
