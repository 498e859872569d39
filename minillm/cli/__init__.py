r"""The command line: each command is a file of its own, with a function named `<command>_command`."""
