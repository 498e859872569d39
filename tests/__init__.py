r"""The tests: they mirror minillm/, and add those of the repository, the lessons and the exercises."""
