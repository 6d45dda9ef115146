"""Settings every test runs under."""

import os

# Many small problems: one thread a process beats two threads fighting over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a test measures it measures anew, and nothing is left in the user's own folder.
os.environ["LIPAUDIT_CACHE"] = "off"

from hypothesis import HealthCheck, settings

from tests import offline

offline.seal()

settings.register_profile(
    "lipaudit",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
settings.load_profile("lipaudit")
