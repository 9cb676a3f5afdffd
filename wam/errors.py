"""The one exception that means "the user's input is wrong"."""


class WamError(ValueError):
    """A bad input, setting or artifact: the message names it, what was expected and how to fix it.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """
