"""The one kind of error that is a message for a person: what is wrong, with which file or flag, what to do about it."""


class UserError(Exception):
    """Something the user can put right. The command line prints the message on one line and exits with status 2."""
