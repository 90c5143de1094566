"""One hypothesis profile for all: the same examples every time, so that a run can be repeated.

HYPOTHESIS_PROFILE=thorough draws 3000, new ones each time.
"""

import os

from hypothesis import settings

settings.register_profile("fixed", max_examples=150, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
