"""What every program observes: limits on what is read, whole files, secrets, errors of one line."""
