"""`python -m prismtop` is the console script."""

from prismtop.cli import entry

if __name__ == "__main__":
    entry()
