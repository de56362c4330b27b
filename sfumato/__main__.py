"""``python -m sfumato`` is the command line."""

from sfumato.cli.main import script

if __name__ == "__main__":
    script()
