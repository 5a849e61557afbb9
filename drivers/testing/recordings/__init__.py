"""Real recordings as CSV, each with its source, licence and changes in a file of the same name beside it."""
