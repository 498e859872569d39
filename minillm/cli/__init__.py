r"""The command line: each command is a file of its own, holding one function named `<command>_command`."""
