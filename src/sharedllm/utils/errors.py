"""Errors that the user can fix, as opposed to faults of the program."""


class UserError(ValueError):
    """A user's mistake: the message names the field, its value and the fix, and the user sees nothing else.

    The command line prints it as one line and exits with code 2; the server returns a client error. Any other exception
    is a fault of the program and keeps its traceback.
    """
