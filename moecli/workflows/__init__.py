"""One function per command: builds the pieces, runs them, returns a dataclass. Prints nothing."""
