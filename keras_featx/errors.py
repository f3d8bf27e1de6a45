"""The errors a user meets. The command line prints their one line and picks the exit status."""


class ConfigError(ValueError):
    """A config, argument or input list is wrong: exit status 2."""


class RunError(RuntimeError):
    """The work was rightly asked for but failed: exit status 1."""
