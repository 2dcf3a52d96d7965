"""The little that the nouns can do."""

import pickle

from etl.model import Job, Partition, Series, Window
from etl.ranges import TimeRange

BARS = Series("um", "klines", "币安人生USDT", "1m")
FUNDING = Series("cm", "funding", "BTCUSD_PERP")


def test_a_series_names_itself():
    assert str(BARS) == "um klines 币安人生USDT 1m"
    assert str(FUNDING) == "cm funding BTCUSD_PERP"
    assert BARS.as_dict() == {"market": "um", "dataset": "klines", "symbol": "币安人生USDT", "interval": "1m"}
    assert FUNDING.as_dict() == {"market": "cm", "dataset": "funding", "symbol": "BTCUSD_PERP", "interval": None}


def test_a_job_adds_up_its_windows_and_can_travel():
    day = TimeRange(1_704_067_200_000, 1_704_153_600_000)
    windows = (Window(day, 499, requests=1, weight=2, rows=499), Window(day, 1000, requests=3, weight=15, rows=2500))
    job = Job((BARS,), (Partition(BARS, "2024", day),), ("rest",), windows, empty=(day,))
    assert (job.requests, job.weight, job.rows) == (4, 17, 2999)
    assert pickle.loads(pickle.dumps(job)) == job
