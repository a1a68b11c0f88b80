"""``python -m whimbrel`` is the ``whimbrel`` program."""

from whimbrel.cli.main import main

if __name__ == "__main__":
    main()
