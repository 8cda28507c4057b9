"""`python -m harmonium`: the command line, where the script is not on the path."""

from harmonium.workflows.cli import main

if __name__ == "__main__":
    main()
