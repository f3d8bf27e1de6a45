"""The errors a user meets. The command line prints their one line and picks the exit status."""


class ConfigError(ValueError):
    """A config, argument or input list is wrong: exit status 2."""


class RunError(RuntimeError):
    """The work was rightly asked for but failed: exit status 1."""


def first_line(error: BaseException) -> str:
    r"""What an error of another library says, in one line.

    Example:
        >>> from keras_featx.errors import first_line
        >>> first_line(ValueError("no such thing\nat line 3")), first_line(KeyError())
        ('no such thing', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
