"""How do people reach it from a terminal?

For: the ``whimbrel`` program. In: argv, standard input, a terminal. Out: results on standard output, all else on standard
error, an exit code. May not: contain logic; a command parses, calls one function of the packages below, and prints.

One file for each command; each registers itself on ``app`` of ``main``. Heavy imports live inside the functions, so that
``whimbrel --help`` stays under a quarter of a second (a test measures what is imported).
"""
