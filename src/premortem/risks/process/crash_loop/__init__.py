"""A command ends badly, again and again."""
