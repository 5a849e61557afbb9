"""The command line: one file for each group of commands. Heavy parts are imported by the command that needs them."""
