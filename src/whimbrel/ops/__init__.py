"""Arithmetic: what is computed, exactly.

For: the few coarse operations that a decoder is made of, each specified once and implemented at least twice.
In: arrays (numpy for ``native``, torch for ``reference``), packed weights, and the attention objects passed through.
Out: arrays.
May not: hold state, read configuration or environment, import ``attention``, ``models`` or anything above them.

One folder per op, and the folder is the registry (``dispatch.names()`` lists them):

    __init__.py    the specification: formula, shapes, dtypes, accumulation, differentiable or not; the public function
    reference.py   torch, differentiable, as the papers write it: the oracle of the tests and the model of training
    native.py      numpy arrays in, numpy arrays out, through ``whimbrel._native``
    cases.py       the awkward shapes that tests, benchmarks and ``whimbrel ops`` share

``attention/`` decides which keys a query sees; the ops here do the arithmetic on them.

Shape letters, everywhere below: T tokens of one step (all sequences after each other), S sequences, K inputs and N
outputs of a matrix, H query heads, G key/value heads, D head_dim, F intermediate size, V vocabulary, P positions.
"""
