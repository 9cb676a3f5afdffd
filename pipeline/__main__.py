"""``python -m pipeline``, and the console script ``wam``."""

import os
import signal


def main() -> None:
    """Run the command line; Ctrl-C while it is being loaded ends it without a word."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from pipeline import cli

    cli.main()


if __name__ == "__main__":
    main()
