"""The one kind of error that a user is meant to read and mend."""


class LensfindError(Exception):
    """A problem that the user can mend, told in three clauses.

    Args:
        expected: What was needed, e.g. ``"a folder of FITS shards with manifest.yaml"``.
        got: What came instead, e.g. ``"data/set1, which does not exist"``.
        do: The way out, with the command where there is one.

    The three are the exception's ``args``, so that it survives pickling between processes.
    """

    def __init__(self, expected: str, got: str, do: str) -> None:
        super().__init__(expected, got, do)

    def __str__(self) -> str:
        expected, got, do = self.args
        return f"Expected {expected}; got {got}. {do}"

    def __repr__(self) -> str:
        # Hydra quotes the repr of what a constructor raises.
        return f"{type(self).__name__}: {self}"
