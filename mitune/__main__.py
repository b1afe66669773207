"""``python -m mitune``."""

from mitune.cli import main

if __name__ == "__main__":
    main()
