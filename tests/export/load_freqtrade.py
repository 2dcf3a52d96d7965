"""Continues the page's Python in freqtrade's environment: what its loader finds, and what a position would pay in funding."""

import json
import sys

from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import TradingMode
from freqtrade.exchange import Exchange


def rows(frame):
    """Of what freqtrade loads: times as ms UTC, then its numbers."""
    names = [name for name in frame.columns if name != "date"]
    return [[time.value // 1_000_000, *numbers] for time, *numbers in frame[["date", *names]].itertuples(index=False)]


handler = get_datahandler(datadir)
found = {
    mode: sorted([pair, timeframe, str(kind)] for pair, timeframe, kind in handler.ohlcv_get_available_data(datadir, mode))
    for mode in (TradingMode.SPOT, TradingMode.FUTURES)
}
loaded = {
    " ".join(one): rows(load_pair_history(*one[:2], datadir, fill_up_missing=False, candle_type=CandleType.from_string(one[2])))
    for one in json.loads(sys.argv[1])
}
joined = Exchange.combine_funding_and_mark(rates, marks)
opened, closed = bars["date"].iloc[10], bars["date"].iloc[200]
paid = Exchange.calculate_funding_fees(
    Exchange, joined, amount=2.0, is_short=True, open_date=opened.to_pydatetime(), close_date=closed.to_pydatetime()
)
options = {**Exchange._ft_has_default}
timeframes = [options["funding_fee_timeframe"], options["mark_ohlcv_timeframe"]]
print(json.dumps({"found": found, "loaded": loaded, "columns": list(bars.columns), "paid": paid, "timeframes": timeframes}))
