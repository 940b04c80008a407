"""`python -m watchword`: the command line."""

from watchword.cli import main

if __name__ == "__main__":
    main()
