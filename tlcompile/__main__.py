"""`python -m tlcompile` is the `tlcompile` command."""

from tlcompile.cli import main

if __name__ == "__main__":
    main()
