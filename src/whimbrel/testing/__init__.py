"""What tests share, and what ships so that others can test against it.

For: bounds for numerical errors (``tolerance``), poisoned memory (``poison``), tiny seeded models and a tokenizer
(``tiny``).
In: arrays to compare; a family's name and a seed.
Out: assertions that say where and by how much; configs, weights, checkpoints on disk.
May not: be imported by the product, reach the network, or hold what only one test needs.
"""
