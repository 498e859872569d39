"""The story language of the course: a grammar whose entropy is known, told, read and judged."""

from minillm.text.stories.language import StoryLanguage, StoryVerdict

__all__ = ["StoryLanguage", "StoryVerdict"]
