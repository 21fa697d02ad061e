"""``python -m edgeresnet`` is ``edgeresnet``."""

from edgeresnet.cli import main

if __name__ == "__main__":
    main()
