"""What every test may use."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something about the machine only.
settings.register_profile("etl", deadline=None)
settings.load_profile("etl")

# A shell lets what it starts in the background ignore Ctrl-C; the commands that tests start would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of recorded exchange data; a test that asks for it is marked `real_data` by that."""
    folder = os.environ.get("ETL_REAL_DATA")
    if not folder:
        pytest.skip("needs recorded exchange data: set ETL_REAL_DATA to its folder")
    return Path(folder).absolute()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """With ETL_REQUIRE_REAL_DATA=1 a skipped test of recorded data is a failed one: where the data lies, it must be used."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and item.get_closest_marker("real_data") and os.environ.get("ETL_REQUIRE_REAL_DATA") == "1":
        report.outcome, report.longrepr = "failed", f"skipped although ETL_REQUIRE_REAL_DATA=1: {report.longrepr[2]}"
    return report
