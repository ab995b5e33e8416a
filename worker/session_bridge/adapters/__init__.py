"""Recording what other frameworks run: each module attaches a recorder to one of them, in three lines of its user."""
