"""`python -m fpm_cli` is `fpm`."""

from fpm_cli.cli.app import main

if __name__ == "__main__":
    main()
