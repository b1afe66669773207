"""``python -m mitune.cli``, for torchrun as well."""

from mitune.cli.program import main

if __name__ == "__main__":
    main()
