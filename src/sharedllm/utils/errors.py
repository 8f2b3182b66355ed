"""What a user can put right, told apart from what went wrong in the program."""


class UserError(ValueError):
    """A user's mistake: the message names the field, its value and the fix, and is all that the user is shown.

    The command line makes one line and exit code 2 of it, the server a client error. Any other exception is a fault of the
    program, and keeps its traceback.
    """
