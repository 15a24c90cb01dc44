"""The front end in a real browser, for tests and for screenshots; only `install` gets by with the standard library."""
