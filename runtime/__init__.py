"""What every process needs: settings, the database, logs; and the errors that one line explains."""


class Problem(Exception):
    """An error that its one line explains; commands print that line and exit with 2."""


class LeaseLost(Exception):
    """What was being done under a lease is another's to do by now, and must stop."""


class DatabaseUnavailable(Problem):
    """The database does not answer now; trying again can help."""


class DatabaseUnusable(Problem):
    """The database answers and cannot be used as it is; trying again is no help."""
