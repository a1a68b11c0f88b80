"""Which model, from where?

For: turning what a person types (``smollm2-135m``, ``org/name:Q4_K_M@main``, a URL, a path) into a verified local path.
In: a reference, the catalogue (``catalog.toml``), the registries and the network. Out: a path and its record.
May not: execute a model, or decide how it is loaded. Weights from the Hub stay in the Hub's own cache.

``references`` parses what was typed, ``catalog`` lists the models known by a short name, ``store`` keeps the records,
``download``, ``wheel`` and ``hub`` bring files here, ``pull`` puts them together.
"""
