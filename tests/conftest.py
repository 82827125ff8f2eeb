"""What every test shares: the examples that properties are tried on are the same in every run."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")
