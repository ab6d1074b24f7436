"""`unbox verify`: does unbox do right on this machine with these weights? Checks, and one page as
evidence."""
