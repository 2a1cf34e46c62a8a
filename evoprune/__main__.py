"""`python -m evoprune`: the same as the `evoprune` command."""

from evoprune.cli.main import main

if __name__ == "__main__":
    main()
